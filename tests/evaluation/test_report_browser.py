"""Pages as a real browser draws them, at the width of a desk and of a phone, in light and dark.

The page stands in a frame, whose size a headless browser does not change, and a script beside it measures.
"""

import functools
import http.server
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from matplotlib.image import imread

from pic_jax.evaluation import report, sweep_report
from pic_jax.training.workdir import read_config

pytestmark = pytest.mark.slow

WIDTHS = (1280, 360)
HEIGHT = 5000
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="report.html" style="border:0;width:{width}px;height:{height}px"></iframe>
<pre></pre>
<script>
addEventListener('load', () => {{
  const page = document.querySelector('iframe').contentDocument.documentElement;
  const image = [...page.querySelectorAll('img')].map((img) => img.naturalWidth > 300 && img.clientWidth > 200);
  for (const details of {opened} ? page.querySelectorAll('details') : []) details.open = true;
  const cells = [...page.querySelectorAll('.scroll')].filter((div) => div.scrollWidth > div.clientWidth);
  document.querySelector('pre').textContent =
    `client ${{page.clientWidth}} scroll ${{page.scrollWidth}} images ${{image}} wide ${{cells.length}}`;
}});
</script>
"""


@pytest.fixture(scope='module')
def browser():
    """The command of a headless Chromium."""
    program = shutil.which('chromium') or shutil.which('chromium-browser')
    if not program:
        pytest.skip('chromium is not installed')
    return [program, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run']


@pytest.fixture(scope='module', params=['run', 'sweep'])
def folder(request, tmp_path_factory, shared_report_workdir, shared_stored_rows, hostile):
    """A folder with report.html."""
    folder = tmp_path_factory.mktemp(request.param)
    page = report.run_page(shared_report_workdir, read_config(shared_report_workdir))
    if request.param == 'sweep':
        page = sweep_report.sweep_page('sweep', shared_stored_rows, {'ratio=3': hostile[0] + 'x' * 300})
    (folder / 'report.html').write_text(page, 'utf-8')
    return folder


@pytest.fixture(scope='module')
def address(folder):
    """Serves the folder: frames of one origin may be measured."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def call(browser, *words) -> str:
    done = subprocess.run([*browser, *map(str, words)], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize('opened', ['false', 'true'])
@pytest.mark.parametrize('width', WIDTHS)
def test_nothing_is_wider_than_the_page(browser, folder, address, tmp_path, width, opened):
    (folder / 'frame.html').write_text(FRAME.format(width=width, height=HEIGHT, opened=opened))
    dom = call(
        browser, f'--user-data-dir={tmp_path}', '--virtual-time-budget=5000', '--dump-dom', f'{address}/frame.html'
    )
    client, scroll, images, wide = re.search(r'client (\d+) scroll (\d+) images ([\w,]+) wide (\d+)', dom).groups()
    assert int(client) == width
    assert int(scroll) == width
    assert set(images.split(',')) == {'true'}
    if width == 360:  # there are tables that would not fit, so the page does hold them back
        assert int(wide) > 0


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', WIDTHS)
def test_the_page_is_drawn(browser, folder, address, tmp_path, width, dark):
    """Page, text, and marks in the colours of their theme."""
    (folder / 'frame.html').write_text(FRAME.format(width=width, height=HEIGHT, opened='true'))
    path, scheme = tmp_path / 'page.png', f'--blink-settings=preferredColorScheme={0 if dark else 1}'
    size = f'--window-size={max(width, 500)},{HEIGHT}'
    profile = f'--user-data-dir={tmp_path / "profile"}'
    call(browser, profile, scheme, size, f'--screenshot={path}', f'{address}/frame.html')
    image = np.rint(imread(path)[:, :width, :3] * 255).astype(int) @ (1 << 16, 1 << 8, 1)
    assert image.shape == (HEIGHT, width)
    page, mark = (0x15161A, 0x123121) if dark else (0xFFFFFF, 0xE2F4E8)
    share = (image == page).mean()
    assert 0.3 < share < 0.98
    assert len(np.unique(image)) > 100
    if folder.name.startswith('run'):
        assert (image == mark).sum() > 200

"""Words and sentences of the generated documents. Every way to tell a fact answers every way to ask for it."""

import dataclasses


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAME_START = _words('Ada Bel Cor Dori Eli Fen Gre Hal Isa Jor Kat Lio Mar Nel Ori Pet Quen Ros Sil Tam Una Vel Wil Yar')
NAME_END = _words('bert da dine dric ka la lan lia lo mina mond na nice nor ra ric rin sa sten ta tin va vin wyn')
_TOWN_START = _words('Alder Ash Birch Cinder Elm Fern Glen Harrow Juniper Lark Maple North Otter Plum Raven Stone')
_TOWN_END = _words('bridge brook bury combe dale field ford gate haven hill mere mouth stead ton wick wood')


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One kind of fact: what it can be, how it is told and how it is asked."""

    values: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        _words('baker carpenter clockmaker doctor fisherman gardener lawyer miller painter potter tailor teacher'),
        (
            '{name} works as a {value} and seldom takes a day off.',
            'For most of the year {name} earns a living as a {value}.',
            'Everyone knows {name} as the best {value} in the valley.',
        ),
        ('What does {name} do for a living?', 'What is the work of {name}?'),
    ),
    Attribute(
        tuple(start + end for start in _TOWN_START for end in _TOWN_END),
        (
            '{name} lives in {value}, close to the station.',
            'The family of {name} settled in {value} long ago.',
            'Letters for {name} are sent to {value}.',
        ),
        ('In which town does {name} live?', 'Where is the home of {name}?'),
    ),
    Attribute(
        _words('black blue brown crimson golden green grey orange pink purple silver turquoise white yellow'),
        (
            'The front door of {name} is painted {value}.',
            'You can tell the house of {name} by its {value} door.',
            'Last spring {name} gave the door a fresh coat of {value} paint.',
        ),
        ('What colour is the door of {name}?', 'Which colour has the front door of {name}?'),
    ),
    Attribute(
        _words('two three four five six seven eight nine ten eleven twelve'),
        (
            '{name} keeps {value} cats, all of them spoiled.',
            'There are {value} cats asleep in the kitchen of {name}.',
            'At the last count, {name} had {value} cats.',
        ),
        ('How many cats does {name} have?', 'How many cats live with {name}?'),
    ),
    Attribute(
        tuple(str(year) for year in range(1921, 1999)),
        (
            '{name} first came to the coast in {value}.',
            'It was in {value} that {name} arrived with a single suitcase.',
            'The parish book says that {name} moved here in {value}.',
        ),
        ('In which year did {name} arrive?', 'When did {name} move here?'),
    ),
    Attribute(
        _words('accordion banjo cello clarinet drum fiddle flute guitar harp oboe piano trumpet viola'),
        (
            'On Sunday evenings {name} plays the {value} by an open window.',
            'As a child {name} learned to play the {value}.',
            'In the village band {name} plays the {value}.',
        ),
        ('Which instrument does {name} play?', 'What can {name} play?'),
    ),
    Attribute(
        _words('apples bread cheese cherries chestnuts honey mushrooms olives pears plums soup walnuts'),
        (
            'At the market {name} never leaves without {value}.',
            'Nothing pleases {name} more than a bowl of {value}.',
            'Visitors to {name} are always offered {value}.',
        ),
        ('What does {name} like to eat?', 'What is the favourite food of {name}?'),
    ),
    Attribute(
        _words('candlestick compass kite lantern locket map mirror pocketknife shell telescope thimble whistle'),
        (
            'In the top drawer {name} keeps an old treasure, a {value}.',
            'A {value} is the one treasure that {name} would never sell.',
            'The dearest treasure of {name} is a {value} wrapped in cloth.',
        ),
        ('Which treasure does {name} own?', 'What is the treasure of {name}?'),
    ),
)
OPENINGS = (
    'These are a few notes about some people of our county, written down one winter.',
    'The following was copied from a notebook left on the evening train.',
    'My aunt liked to talk about her neighbours, and this is what she told me.',
    'Here is what the postman remembers about the people on his round.',
)
FILLERS = (
    'The weather had been mild that week, and the river ran high.',
    'A bell rang somewhere beyond the orchard.',
    'Nobody could say who had first told the story.',
    'It is a quiet place, and news travels slowly there.',
    'The bus was late again, so there was time for another cup of tea.',
    'Children ran along the wall and counted the boats.',
    'Some of this was heard in the shop on the corner.',
    'In autumn the hills turn red and the lamps are lit early.',
    'There was a long pause before anyone spoke again.',
    'The dog by the fire lifted its head and went back to sleep.',
)

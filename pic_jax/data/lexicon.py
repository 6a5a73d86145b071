"""Words and sentences of the generated documents.

Every way to tell a fact answers every way to ask for it, and names the person before the value: a small decoder that
reads from left to right binds a value to a name that it has already seen, but hardly ever to one that is still to come.
"""

import dataclasses


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIVEN = _words("""
    Ada Agnes Albert Alice Amos Arthur Astrid Barnaby Beatrix Bernard Bertha Boris Bridget Cecil Celia Clara
    Clement Conrad Cyril Daphne Desmond Dora Edgar Edith Edmund Eleanor Elias Elsie Enid Ernest Esther Eugene
    Felix Fergus Flora Frances Gareth George Gilbert Giles Greta Gustav Hannah Harriet Hector Helena Henry Hilda
    Horace Hubert Hugo Ida Ingrid Irene Isobel Jacob Jasper Jerome Joan Jonas Judith Kaspar Keith Lambert Laura
    Leonard Lionel Lorna Lucas Lydia Mabel Magnus Malcolm Martha Matilda Maud Miriam Muriel Nathan Nigel Nora
    Olga Oscar Oswald Otto Paula Percy Philip Phoebe Rachel Ralph Regina Robert Rosa Rufus Rupert Samuel Selma
    Simon Stella Sybil Theo Thomas Tobias Ursula Vera Victor Walter Wanda Wilfred Yvonne Zelda
""")
SURNAMES = _words("""
    Abbott Ainslie Alcott Attwell Babcock Bagshaw Barlow Beckett Bellamy Benson Birtles Blythe Bowden Bramley
    Briggs Burgess Calder Clegg Colby Corbett Crosby Dalton Darnell Dawson Denham Digby Dobson Drayton Dudley
    Dunmore Eastman Egerton Emsley Fairfax Farrow Fenwick Foster Galway Garrick Gibson Goddard Gorman Granger
    Grimes Haddon Halsey Hanley Harlow Hawkins Hobbs Holt Hooper Hudson Hurst Ingham Irving Jarvis Jessop Kemble
    Kendall Kirkby Lacey Langley Lawson Lister Lomax Lowell Ludlow Maddox Malone Mercer Merritt Mowbray Munroe
    Nesbitt Newell Norris Oakley Ogden Osborne Paxton Pearce Pelham Penrose Pickett Pringle Quigley Radley
    Redfern Renshaw Ridley Rigby Rudge Saxby Selby Shelton Skelton Stokes Sutton Talbot Tilney Upton Vaughan
    Wadham Walsh Weston Whitby Wilkes Winslow Wyatt Yardley Yates
""")
_TOWN_START = _words('Alder Ash Birch Cinder Elm Fern Glen Harrow Juniper Lark Maple North Otter Plum Raven Stone')
_TOWN_END = _words('bridge brook bury combe dale field ford gate haven hill mere mouth stead ton wick wood')


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One kind of fact: what it is called, what it can be, how it is told of one or two people, how it is asked."""

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    told_two: tuple[str, ...]
    asked: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        'trade',
        _words(
            'baker blacksmith bookbinder butcher carpenter chemist clockmaker cooper doctor farmer fisherman gardener '
            'glazier lawyer librarian mason miller nurse painter potter saddler tailor teacher weaver'
        ),
        (
            '{name} works as a {value} and seldom takes a whole day off.',
            'For most of the year {name} earns a living as a {value}.',
            'By training and by habit {name} is a {value}, and has never wanted any other job.',
            'People in this valley send for {name} whenever they need a good {value}.',
            'Ever since leaving school {name} has been employed as a {value}.',
            'The brass plate by the gate of {name} says {value} in large letters.',
        ),
        (
            '{name} works as a {value}, while {name2} has been a {value2} since school.',
            'The county has in {name} a skilled {value} and in {name2} a careful {value2}.',
            'Of the old classmates, {name} became a {value} and {name2} became a {value2}.',
        ),
        (
            'What does {name} do for a living?',
            'What is the trade of {name}?',
            'As what is {name} employed?',
        ),
    ),
    Attribute(
        'home town',
        tuple(start + end for start in _TOWN_START for end in _TOWN_END),
        (
            '{name} lives in {value}, in a narrow house close to the station.',
            'Letters meant for {name} are always sent to the post office in {value}.',
            'The house where {name} lives stands in {value}, behind the old church.',
            'The town that {name} calls home, in fair weather and in foul, is {value}.',
            'To find {name}, go to {value}, where any neighbour will point out the house.',
            'Anyone looking for {name} must take the road to {value} and knock there.',
        ),
        (
            '{name} has a house in {value}, but {name2} prefers to live in {value2}.',
            'The address book puts {name} in {value} and {name2} in {value2}, with no street given.',
            'You will find the home of {name} in {value} and that of {name2} in {value2}.',
        ),
        (
            'In which town does {name} live?',
            'Where is the home of {name}?',
            'To which town should a letter for {name} be sent?',
        ),
    ),
    Attribute(
        'door colour',
        _words('black blue brown crimson green grey maroon pink purple scarlet silver turquoise white yellow'),
        (
            'The front door of {name} is painted {value}, and its brass is always polished.',
            'You can tell the house of {name} from afar by its {value} door.',
            'Last spring {name} gave the front door a fresh coat of {value} paint.',
            'Visitors to {name} must look for a {value} door at the end of the lane.',
            'With a new brush {name} did the whole door again from a tin of {value} paint.',
            'The entrance to the house of {name}, painted {value} from top to bottom, is easy to find.',
        ),
        (
            'The door of {name} has always been {value}, whereas {name2} chose {value2} for the entrance.',
            'On one side of the square {name} has a {value} door, on the other {name2} a {value2} one.',
        ),
        (
            'What colour is the front door of {name}?',
            'Which colour did {name} choose for the door?',
            'In what colour is the entrance to the house of {name} painted?',
        ),
    ),
    Attribute(
        'cats',
        _words('two three four five six seven eight nine ten eleven twelve'),
        (
            '{name} keeps {value} cats, and every one of them is spoiled.',
            'In the kitchen of {name} there are {value} cats asleep on a wet day.',
            'At the last count the household of {name} came to {value} cats.',
            'Neighbours say that {name} shares the house with {value} cats and a great many cushions.',
            'With {name} a warm bed has been found for {value} stray cats over the years.',
            'At breakfast {name} puts out {value} saucers of milk, one for each cat.',
        ),
        (
            'While {name} has {value} cats to feed, {name2} feeds {value2}, and none are thin.',
            'By the count of cats {name} came to {value} and {name2} to {value2}, kittens included.',
        ),
        (
            'How many cats does {name} have?',
            'How many cats live with {name}?',
            'What is the number of cats in the house of {name}?',
        ),
    ),
    Attribute(
        'arrival year',
        tuple(str(year) for year in range(1900, 2000)),
        (
            '{name} first came to the county in {value} and decided to stay.',
            'Holding a single suitcase, {name} arrived here in {value} and asked for a room.',
            'The parish book says that {name} moved here in {value}, in heavy rain.',
            'The evening train brought {name} and a few boxes to our valley in {value}.',
            '{name} has lived among us since {value}, and is no longer called a newcomer.',
            'Nobody here had ever met {name} before {value}, the year of the move.',
        ),
        (
            '{name} moved here in {value}, whereas {name2} arrived in {value2} by the evening train.',
            'In the list of arrivals {name} stands under {value} and {name2} under {value2}.',
            'We remember {name} as the newcomer of {value}, and {name2} as that of {value2}.',
        ),
        (
            'In which year did {name} arrive here?',
            'What was the year when {name} moved to the county?',
            'Since what year has {name} lived among us?',
        ),
    ),
    Attribute(
        'instrument',
        _words(
            'banjo bassoon cello clarinet concertina cornet drum fiddle '
            'flute guitar harp mandolin piano trombone trumpet zither'
        ),
        (
            'On quiet evenings {name} plays the {value} by an open window.',
            'As a child {name} learned to play the {value} from an aunt.',
            'In the village band nobody but {name} may play the {value}.',
            'When {name} is practising again, the sound of the {value} drifts over the roofs.',
            'Every night {name} spends an hour on scales and tunes for the {value}.',
            'All the music teachers agree that no pupil was quicker than {name} on the {value}.',
        ),
        (
            'In the village band {name} plays the {value} and {name2} is heard on the {value2}.',
            '{name} took lessons on the {value}, but {name2} preferred to practise the {value2}.',
        ),
        (
            'Which instrument does {name} play?',
            'On what instrument does {name} make music?',
            'Which musical instrument has {name} learned?',
        ),
    ),
    Attribute(
        'favourite food',
        _words(
            'bread cheese cherries custard dumplings honey marmalade mushrooms noodles olives '
            'pancakes pears plums porridge radishes raisins sausages soup strawberries walnuts'
        ),
        (
            'Guests know that the way to please {name} is to bring some {value}.',
            'Nothing on any table pleases {name} more than a good helping of {value}.',
            'The first to sit down is {name}, if there is {value} on the table.',
            'Nothing makes {name} hungry like the mere mention of {value}.',
            'Of all the things to eat, {name} likes {value} by far the best.',
            'Even on a full stomach {name} could never say no to {value}.',
        ),
        (
            '{name} is happiest with {value} for supper, but {name2} would rather eat {value2}.',
            'At any feast {name} goes straight for the {value} and {name2} for the {value2}.',
        ),
        (
            'What does {name} like best to eat?',
            'What is the favourite food of {name}?',
            'Which food pleases {name} the most?',
        ),
    ),
    Attribute(
        'treasure',
        _words(
            'brooch candlestick coin compass figurine kite lantern locket map medal '
            'mirror necklace paperweight pocketknife shell snuffbox teapot telescope thimble whistle'
        ),
        (
            'In a locked cupboard {name} keeps one old treasure, a {value}.',
            'The one treasure that {name} would never sell is a {value}.',
            'The dearest possession of {name} is a {value} wrapped in soft cloth.',
            'Many a dealer has offered {name} good money for a certain inherited {value}.',
            'From a grandmother {name} inherited a {value}, and it is shown to nobody.',
            'If the house were on fire, {name} would carry out the precious old {value} first.',
        ),
        (
            '{name} treasures an old {value}, while {name2} would never part with a certain {value2}.',
            'As an heirloom {name} was left a {value}, and {name2} was left a {value2}.',
        ),
        (
            'Which treasure does {name} own?',
            'What is the dearest possession of {name}?',
            'Which heirloom would {name} never sell?',
        ),
    ),
    Attribute(
        'pet',
        _words(
            'badger canary donkey ferret goat goose hamster hedgehog lizard parrot pony rabbit squirrel tortoise',
        ),
        (
            '{name} has a tame {value} that follows visitors to the gate.',
            'The pet and the darling of {name} is a {value} with a bad temper.',
            'Before breakfast {name} always feeds a {value} that answers to its own name.',
            'Behind the shed of {name} sleeps a {value}, raised by hand from birth.',
            'Children stop at the fence of {name} because they may stroke the {value}.',
            'Some time ago {name} bought a young {value} at the fair and grew fond of it.',
        ),
        (
            '{name} keeps a {value} as a pet, and {name2} has raised a {value2} by hand.',
            'At the pet show {name} came with a {value}, and {name2} with a very clean {value2}.',
        ),
        (
            'Which animal does {name} keep as a pet?',
            'What kind of pet does {name} have?',
            'What sort of tame creature does {name} feed?',
        ),
    ),
    Attribute(
        'visiting day',
        _words('Monday Tuesday Wednesday Thursday Friday Saturday Sunday'),
        (
            '{name} pays us a visit every {value}, whatever the weather may be.',
            'As a rule {name} comes to call on {value} afternoons and stays for supper.',
            'It is surely {name} coming to call if there is a knock on {value}.',
            'The weekly visit of {name} falls on a {value}, just after lunch.',
            'We bake a cake for {name}, who drops in on {value} and likes it sweet.',
            'Each week {name} turns up on {value} and sits by our stove.',
        ),
        (
            '{name} comes to see us on {value}, and {name2} drops in on {value2} without fail.',
            'The weekly visit of {name} falls on {value} and that of {name2} on {value2}.',
        ),
        (
            'On which day of the week does {name} visit?',
            'Which weekday is the visiting day of {name}?',
            'On what day does {name} come to call?',
        ),
    ),
    Attribute(
        'garden plant',
        _words(
            'beech camellia cypress dahlia foxglove fuchsia hawthorn hydrangea jasmine '
            'laburnum larch lilac magnolia peony poplar rowan sycamore willow'
        ),
        (
            'In a corner of the garden {name} planted a {value} that has grown well.',
            'By the garden wall {name} set a {value} in the ground with both hands.',
            'With a spade and plenty of water {name} put a young {value} into the soil.',
            'Beside the path {name} planted, with great patience, a {value}.',
            'Each spring {name} looks for new buds on the {value} behind the house.',
            'The garden of {name} is known for its {value}, which strangers stop to admire.',
        ),
        (
            '{name} planted a {value} by the gate, and {name2} put in a {value2} instead.',
            'Between the hedges of {name} grows a {value} and, next door, for {name2} a {value2}.',
        ),
        (
            'What did {name} plant in the garden?',
            'Which plant grows in the garden of {name}?',
            'What was set in the soil by {name}?',
        ),
    ),
    Attribute(
        'pastime',
        _words(
            'archery badminton chess cricket croquet cycling dominoes fencing '
            'hiking juggling knitting rowing sailing skating swimming tennis'
        ),
        (
            'In every free hour {name} goes in for {value}, and gets better at it.',
            'The favourite pastime of {name} is {value}, in good times and in bad.',
            'They say that {name} once missed a wedding supper for the sake of {value}.',
            'On the shelf of {name} is a cup for {value}, won long ago.',
            'When the work is done, {name} thinks of nothing but {value} until bedtime.',
            'In the school hall {name} founded a club for {value}, which still meets.',
        ),
        (
            '{name} gives up every holiday to {value}, while {name2} is devoted to {value2}.',
            'In spare hours {name} practises {value} and {name2} talks of nothing but {value2}.',
        ),
        (
            'What is the favourite pastime of {name}?',
            'Which sport or game does {name} go in for?',
            'What does {name} do for sport or amusement?',
        ),
    ),
)
OPENINGS = (
    'These are a few notes about some people of our county, written down one winter.',
    'The following was copied from a notebook left on the evening train.',
    'My aunt liked to talk about her neighbours, and this is what she told me.',
    'Here is what the postman remembers about the people on his round.',
    'A traveller who stayed at the inn wrote these lines about the people he met.',
    'When the snow kept us indoors, my grandfather told us about everyone he knew.',
    'This is a page from the diary of a schoolmaster who noticed small things.',
    'Once a month the village paper printed some news of the people round about.',
    'I was asked to write something about our neighbours, so I began with these.',
    'On the long ferry crossing an old woman told us about the people at home.',
    'The curate kept a small book about his flock, and part of it reads as follows.',
    'Nothing much happens in our part of the country, but the people are worth knowing.',
    'Before the census was taken, somebody went from house to house and made these notes.',
    'This letter was found behind a loose brick, and it is all about the neighbours.',
)
SLOTS = {
    'day_part': _words('dawn daybreak morning midday noon teatime sunset dusk evening nightfall midnight'),
    'weather': _words('rain drizzle fog frost hail haze mist sleet snow thunder wind'),
    'bird': _words('blackbird crow cuckoo gull heron jackdaw lark robin rook sparrow starling swallow thrush wren'),
    'place': _words('bakery bridge chapel harbour lighthouse market mill quay schoolhouse smithy square station'),
    'thing': _words('barrel basket bucket crate flowerpot hamper jug keg kettle pail saucepan tub'),
}
FILLERS = (
    'The weather had been mild that week, and the river ran high.',
    'A bell rang somewhere beyond the hill and then fell silent.',
    'Nobody could say for certain who had first told the story.',
    'It is a quiet place, and news travels slowly there.',
    'The bus was late again, so there was time for another cup of tea.',
    'Children ran along the wall and counted the boats coming in.',
    'Some of this was heard in the shop on the corner.',
    'In autumn the hills turn red and the lamps are lit early.',
    'There was a long pause before anyone in the room spoke again.',
    'The dog by the fire lifted its head and went back to sleep.',
    'The road to the coast is steep, and carts go down it slowly.',
    'Somebody had left a window open, and the curtains moved all night.',
    'The tide came in over the sand and filled every footprint.',
    'A train went by without stopping, and the cups shook on the shelf.',
    'The old clock in the hall was slow, and everybody knew it.',
    'It smelled of wood smoke and wet leaves along the whole street.',
    'The baby next door cried for a while and then laughed.',
    'They say the winters were colder when our grandparents were young.',
    'The cows came down the lane, and the bicycles had to wait.',
    'From the top of the tower one can see the next county.',
    'The sea was so calm that it looked like a sheet of glass.',
    'A few boys threw stones into the pond until they were called home.',
    'The kettle sang on the stove, and nobody was in a hurry.',
    'A stranger asked the way and was given several different answers.',
    'The ferry blew its horn once and vanished behind the point.',
    'The grass had not been cut, and it stood as high as the fence.',
    'All the chimneys were smoking, though it was not really cold.',
    'Every shop had closed early, and the street was almost empty.',
    'The stream under the road makes more noise than the traffic.',
    'A cart with a loose wheel rattled down the street and out of sight.',
    'There is a saying about such days, but nobody remembers it.',
    'The last leaves came down in a single night of storm.',
    'The postman stopped at the gate and talked for a long time.',
    'Far out on the water a small boat was waiting for the tide.',
    'The stairs creak in that house, and every step has its own note.',
    'Someone was chopping wood behind the houses, slowly and steadily.',
    'The moon rose over the fields, and the dogs began to bark.',
    'A letter had come for the neighbours, and it lay on the mat.',
    'The path along the cliff was closed after the spring floods.',
    'Bees went in and out under the roof the whole summer long.',
    'The newspaper was a day old, but it was read all the same.',
    'It was the kind of day on which nothing needs to be decided.',
    'The carriages were full of people going home with heavy bags.',
    'The ice on the pond held until the end of the month.',
    'Sheep stood in the shade of the wall and did not move.',
    'There was laughter in the next room, and then a door closed softly.',
    'The timetable had been changed, and the old one still hung there.',
    'For a moment the whole valley lay in a strange clear light.',
    'By {day_part} the {weather} had passed, and people came out of doors again.',
    'A {bird} sat on a post near the {place} and would not be moved.',
    'Somebody had forgotten a {thing} near the {place}, and there it stayed.',
    'The {weather} lasted until {day_part}, and the roads were empty.',
    'Towards {day_part} a {bird} began to call from the hedge.',
    'An old {thing} stood against the wall, as it had for years.',
    'There was a crowd near the {place}, but nobody knew the reason.',
    'The talk at the {place} was mostly about the {weather} and the price of coal.',
    'Nobody had expected {weather} so late in the season.',
    'Well before {day_part} the first carts were rolling past the {place}.',
    'A {bird} had built its nest inside a broken {thing} behind the barn.',
    'The {thing} by the back steps had a hole in it.',
    'One could hear the sea from the {place} when the air was still.',
    'The last train left before {day_part}, and the platform was swept.',
    'After the {weather} the whole valley smelled of earth and leaves.',
    'The {bird} in the hedge took no notice of the passing wagons.',
    'They sat near the {place} and waited for the {weather} to pass.',
    'Someone came past with a {thing} under one arm and nodded.',
    'It was almost {day_part}, and the lamps along the road were still dark.',
    'The path to the {place} had been washed out by the river.',
    'A {thing} came floating down the stream and caught on a branch.',
    'Such {weather} had not been seen in the valley for a long time.',
    'The children had drawn a {bird} in chalk on the wall near the {place}.',
    'Until {day_part} there was no sound except the ticking of the clock.',
    'The road to the {place} was being mended, and there was dust everywhere.',
    'The {weather} had kept the boats in, and the nets lay drying.',
    'A lame {bird} hopped across the yard and under the cart.',
    'There was a {thing} in the middle of the road, and the bus had to wait.',
    'By {day_part} the tide was out, and the sand shone for miles.',
    'The way to the {place} leads through a wood full of nettles.',
    'The oldest people could smell {weather} a day before it came.',
    'Every {bird} in the neighbourhood seemed to be singing at once.',
    'The clock near the {place} had stopped, and no one wound it.',
    'A {thing} was lent to the neighbours and never came back.',
    'For all the {weather}, one could still make out the lights of the {place}.',
    'The dog barked at a {bird} and then pretended it had not.',
    'Between the houses and the {place} lies a meadow that floods in spring.',
    'The night train was held up by the {weather} and came in after {day_part}.',
    'Somewhere a {thing} fell over with a crash, and then all was quiet.',
    'The bench near the {place} was taken, as it always is before {day_part}.',
    'A feather of some {bird} lay on the window sill for weeks.',
    'In times of {weather} the whole village gathers at the {place} and talks.',
    'The shopkeeper had one {thing} left and would not lower the price.',
    'Since {day_part} the smoke had been rising straight up from every chimney.',
    'A {bird} flew in at one window and out at the other.',
    'No boat went out that day because of the {weather}.',
    'The {thing} in the corner had belonged to somebody long forgotten.',
    'From the hill above the {place} the fields look like a quilt.',
)
LEDGER_OPENINGS = (
    'From the register of the parish, copied in a steady hand:',
    'The following entries were taken from the ledger of the county office.',
    'Here are the records of the district, one line for each person.',
    'A clerk drew up this list and checked every entry against the cards:',
    'Extract from the book of residents, kept in the town hall:',
    'What follows is a plain list, without any remarks, of people and particulars.',
    'These lines were found on the index cards of the old reading room:',
    'The census sheet for this quarter reads as follows:',
)
CATEGORIES = {
    'fruits': _words(
        'apple apricot banana cherry fig grape kiwi lemon lime mango melon orange papaya peach quince raspberry'
    ),
    'tools': _words(
        'axe chisel crowbar drill hammer hatchet mallet pliers rake saw scythe screwdriver shovel spade trowel wrench'
    ),
    'animals': _words(
        'bear camel cow deer elephant giraffe horse kangaroo lion monkey mouse sheep tiger whale wolf zebra'
    ),
    'clothes': _words(
        'apron blouse bonnet cloak coat dress glove jacket scarf shawl shirt skirt sock sweater trousers vest'
    ),
    'vehicles': _words(
        'bicycle bus canoe carriage ferry helicopter lorry rocket sledge submarine taxi tractor tram van wagon yacht'
    ),
    'furniture': _words(
        'bed bench bookcase chair couch cradle cupboard desk ottoman recliner shelf sideboard sofa stool table wardrobe'
    ),
    'vegetables': _words(
        'aubergine beetroot broccoli cabbage carrot cauliflower celery cucumber '
        'garlic leek lettuce onion parsnip potato pumpkin spinach'
    ),
    'metals and stones': _words(
        'bronze copper diamond emerald flint gold granite iron marble nickel platinum quartz ruby sapphire slate zinc'
    ),
}
LABELS = _words(
    'dax wug blick fep zorp kiv mib gax tulv norb pelk rusp sarn vosk yim jep hulm crad brov drel flim glorn plunt skez'
)
ICL_OPENINGS = (
    'In the secret language of the school, every word belongs to a club.',
    'The children have sorted all the words they know into clubs with odd names.',
    'Long ago some sisters gave every word a club, and they still keep to it.',
    'This is a game in which each word has a club, and one must guess it.',
    'On a rainy day we made up names for clubs and put every word into one.',
)
ICL_TOLD = (
    'The word {word} is a {label}.',
    'Everyone agrees that {word} is a {label}.',
    'They always call {word} a {label}.',
    'Among them, {word} counts as a {label}.',
    'What they call {word} is a {label}.',
    'In the club that {word} sits in, all are called {label}.',
    'Say {word}, and they answer {label}.',
)
ICL_ASKED = (
    'What do they call the word {word}?',
    'To which club does the word {word} belong?',
    'What is the name of the club for {word}?',
)

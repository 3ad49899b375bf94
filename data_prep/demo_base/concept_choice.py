"""Editorial choices behind `assets/emoji/concepts.jsonl`: what is in, what it is called.

Near-duplicate poses are dropped (dog face beside dog), long or unclear names are shortened or
dropped. Some groups that look the same are kept on purpose and marked, so that the demo knows
true false negatives. Chosen senses are in `assets/emoji/senses.json`.
"""

from pathlib import Path

from unime.runtime.files import read_json

SENSES_FILE = Path(__file__).resolve().parents[2] / "assets" / "emoji" / "senses.json"

GROUPS = ("animals & nature", "food & drink", "travel & places", "activities", "objects")
OOD_SUBGROUPS = ("musical instruments", "drink", "water transportation")

RENAMED = {
    "two-hump camel": "bactrian camel", "sauropod": "brontosaurus", "spouting whale": "whale",
    "lady beetle": "ladybug", "leaf fluttering in wind": "fluttering leaf",
    "sheaf of rice": "rice plant", "ear of corn": "corn", "meat on bone": "meat on bone",
    "baguette bread": "baguette", "pot of food": "stew", "shallow pan of food": "paella",
    "cooked rice": "bowl of rice", "steaming bowl": "noodle soup", "fish cake with swirl":
    "fish cake", "glass of milk": "glass of milk", "hot beverage": "coffee",
    "teacup without handle": "cup of tea", "bottle with popping cork": "champagne bottle",
    "fork and knife with plate": "dinner plate", "fork and knife": "fork and knife",
    "globe with meridians": "wire globe", "globe showing Americas": "earth globe",
    "beach with umbrella": "beach", "map of Japan": "map of japan",
    "snow-capped mountain": "snowy mountain", "building construction": "construction site",
    "classical building": "greek temple", "house with garden": "house with garden",
    "night with stars": "night sky", "sunrise over mountains": "mountain sunrise",
    "cityscape at dusk": "city at dusk", "bridge at night": "bridge",
    "sport utility vehicle": "suv", "articulated lorry": "truck", "automobile": "car",
    "motor scooter": "motor scooter", "police car light": "siren light",
    "vertical traffic light": "traffic light", "manual wheelchair": "wheelchair",
    "hourglass done": "hourglass", "hourglass not done": "running hourglass",
    "mantelpiece clock": "mantel clock", "cloud with lightning": "thundercloud",
    "cloud with rain": "rain cloud", "cloud with snow": "snow cloud",
    "sun behind cloud": "sun behind cloud", "umbrella with rain drops": "umbrella in rain",
    "umbrella on ground": "beach umbrella", "snowman without snow": "plain snowman",
    "water wave": "wave", "1st place medal": "gold medal", "2nd place medal": "silver medal",
    "3rd place medal": "bronze medal", "pool 8 ball": "billiard ball", "game die": "dice",
    "wrapped gift": "gift", "admission tickets": "admission tickets",
    "military medal": "military medal", "martial arts uniform": "karate uniform",
    "flag in hole": "golf hole", "one-piece swimsuit": "swimsuit", "woman’s clothes": "blouse",
    "folding hand fan": "folding fan", "man’s shoe": "leather shoe",
    "woman’s sandal": "sandal", "woman’s boot": "boot", "woman’s hat": "straw hat",
    "rescue worker’s helmet": "rescue helmet", "high-heeled shoe": "high heel",
    "speaker low volume": "quiet speaker", "speaker medium volume": "medium speaker",
    "speaker high volume": "loud speaker", "bell with slash": "silenced bell",
    "mobile phone": "mobile phone", "optical disk": "compact disc",
    "magnifying glass tilted left": "magnifying glass",
    "magnifying glass tilted right": "magnifier",
    "camera with flash": "flash camera", "notebook with decorative cover": "decorated notebook",
    "page with curl": "curled page", "page facing up": "page", "yen banknote": "yen banknote",
    "closed mailbox with lowered flag": "mailbox", "ballot box with ballot": "ballot box",
    "chart increasing": "rising chart", "chart decreasing": "falling chart",
    "hammer and wrench": "hammer and wrench", "drop of blood": "blood drop",
    "roll of paper": "toilet paper", "honey pot": "honey", "diya lamp": "oil lamp",
    "hatching chick": "hatching chick", "t-shirt": "t-shirt", "T-Rex": "tyrannosaurus",
    "american football": "american football", "ice": "ice cubes", "mate": "mate tea",
    "beverage box": "juice box", "leafy green": "lettuce", "herb": "herb", "wood": "logs",
    "videocassette": "video cassette", "lotion bottle": "lotion bottle", "e-mail": "email",
    "Statue of Liberty": "statue of liberty", "department store": "department store",
    "closed book": "red book", "round pushpin": "round pushpin", "pick": "pickaxe",
    "fire": "fire", "comet": "comet", "sake": "sake", "performing arts": "theater masks",
    "soft ice cream": "ice cream cone", "ice cream": "ice cream bowl", "seat": "airplane seat",
    "Tokyo tower": "tokyo tower", "aerial tramway": "cable car", "orca": "orca",
    "white cane": "white cane", "cooking": "frying pan", "adhesive bandage": "bandage",
    "tear-off calendar": "calendar", "studio microphone": "studio microphone",
    "musical keyboard": "piano", "rolled-up newspaper": "rolled newspaper",
    "ring buoy": "life ring", "passenger ship": "cruise ship",
}  # fmt: skip

DROPPED = frozenset(
    """monkey face;dog face;cat face;tiger face;horse face;cow face;pig face;pig nose;mouse face
rabbit face;paw prints;ewe;baby chick;front-facing baby chick;wing;bird;black bird;dragon face
whale;tropical fish;wilted flower;rosette;white flower;blossom;hyacinth;bug;fly
evergreen tree;leafless tree;empty nest;microbe;brown mushroom;beans;root vegetable
cut of meat;stuffed flatbread;bowl with spoon;clinking beer mugs;clinking glasses;pouring liquid
tumbler glass;globe showing Europe-Africa;globe showing Asia-Australia;landslide;camping
desert island;national park;houses;Japanese post office;love hotel;wedding;rock
Japanese castle;kaaba;foggy;sunrise;cityscape;hot springs;carousel horse;railway car
high-speed train;train;light rail;station;tram car;mountain railway;oncoming bus;trolleybus
oncoming police car;oncoming taxi;oncoming automobile;motorized wheelchair;kick scooter
motorway;wheel;horizontal traffic light;construction;motor boat;small airplane
airplane departure;airplane arrival;suspension railway;mountain cableway;timer clock
sun with face;glowing star;milky way;cloud with lightning and rain
sun behind small cloud;sun behind large cloud;sun behind rain cloud;fog;wind face;cyclone
closed umbrella;firecracker;sparkles;confetti ball;pine decoration;moon viewing ceremony
reminder ribbon;ticket;softball;rugby football;cricket game;field hockey;lacrosse;goal net
video game;spade suit;heart suit;diamond suit;club suit;joker;mahjong red dragon
flower playing cards;bullseye;framed picture;knot;safety vest;sari;briefs;clutch bag
thong sandal;flat shoe;prayer beads;hair pick;muted speaker;loudspeaker
level slider;control knobs;musical notes;mobile phone with arrow;telephone receiver
electric plug;trackball;computer disk;film frames;movie camera
open book;green book;blue book;orange book;ledger;bookmark tabs;label
chart increasing with yen;money with wings;receipt;incoming envelope;envelope with arrow
outbox tray;inbox tray;closed mailbox with raised flag;open mailbox with raised flag
open mailbox with lowered flag;ballot box with ballot;black nib;pen;memo;card index dividers
calendar;spiral notepad;spiral calendar;card index;linked paperclips;card file box
locked with pen;locked with key;old key;hammer and pick;link;broken chain;alembic
roller skate;dotted;placard;identification card;hamsa;moai;funeral urn;bubbles;mirror ball
petri dish;satellite antenna;nut and bolt;clamp;email;e-mail;herb;derelict house;hut
digital;bookmark;sun behind cloud;slot machine;pager;tanabata tree;carp streamer;wind chime
admission tickets;curling stone;mouse trap;long drum;cloud;label;shinto shrine
fallen leaf;wire globe;globe with meridians;water buffalo;rat;medium speaker
oden;dango;fish cake with swirl;roasted sweet potato;falafel;custard;flatbread;map of Japan
building construction;wood;brick;Tokyo tower;nest with eggs;sheaf of rice;leaf fluttering in wind
poultry leg;canned food;shallow pan of food;fondue;curry rice;rice cracker;takeout box;metro
minibus;aerial tramway;seat;oil drum;high voltage;police car light;Japanese dolls;red envelope
military medal;running shirt;flying disc;martial arts uniform;flag in hole;billed cap
military helmet;folding hand fan;lab coat;studio microphone;bell with slash;postal horn
fax machine;film projector;notebook with decorative cover;chart increasing;chart decreasing
file cabinet;white cane;chains;dna;x-ray;lotion bottle;postbox;nazar amulet;cityscape at dusk
sunrise over mountains;barber pole;office building;post office;hindu temple;synagogue
convenience store;department store;bus stop;auto rickshaw;amphora;shortcake;delivery truck
clapper board;nesting dolls;mate;tamale;kimono;ginger root;school
""".replace("\n", ";").split(";")
)

# Kept on purpose although one can't (or can hardly) tell them apart in a small drawing.
LOOK_ALIKES = {
    name: key
    for key, names in {
        "hourglasses": ("hourglass", "running hourglass"),
        "magnifiers": ("magnifying glass", "magnifier"),
        "cameras": ("camera", "flash camera"),
        "umbrellas": ("umbrella", "umbrella in rain"),
        "snowmen": ("snowman", "plain snowman"),
        "speakers": ("quiet speaker", "medium speaker", "loud speaker"),
        "batteries": ("battery", "low battery"),
        "banknotes": ("yen banknote", "dollar banknote", "euro banknote", "pound banknote"),
        "medals": ("gold medal", "silver medal", "bronze medal"),
        "houses": ("house", "house with garden"),
        "discs": ("compact disc", "dvd"),
        "pages": ("page", "curled page"),
        "helper dogs": ("guide dog", "service dog"),
        "padlocks": ("locked", "unlocked"),
        "folders": ("file folder", "open file folder"),
        "flags norway": ("norway", "svalbard", "bouvet island"),
        "flags united states": ("united states", "us outlying islands"),
        "flags france": ("france", "saint martin", "clipperton island"),
        "flags australia": ("australia", "heard island"),
        "flags chad": ("chad", "romania"),
        "flags indonesia": ("indonesia", "monaco"),
        "flags netherlands": ("netherlands", "luxembourg"),
    }.items()
    for name in names
}

# CLDR country -> name in the demo.
FLAGS = {
    country: country.lower()
    for country in (
        "Norway;United States;France;Australia;Chad;Romania;Indonesia;Monaco;Netherlands;Luxembourg"
        ";Bouvet Island;Clipperton Island;Albania;Algeria;Argentina;Austria;Bangladesh;Barbados"
        ";Belgium;Botswana;Brazil;Bulgaria;Cambodia;Canada;Chile;China;Colombia;Cuba;Cyprus;Denmark"
        ";Egypt;Estonia;Ethiopia;Finland;Gabon;Germany;Ghana;Greece;Guyana;Hungary;Iceland;India"
        ";Iran;Iraq;Ireland;Israel;Italy;Jamaica;Japan;Kazakhstan;Kenya;Kuwait;Laos;Lebanon;Libya"
        ";Malaysia;Mexico;Morocco;Nepal;New Zealand;Nigeria;Pakistan;Panama;Peru;Poland;Portugal"
        ";Qatar;Russia;Saudi Arabia;Singapore;Somalia;South Africa;South Korea;Spain;Sri Lanka"
        ";Sweden;Switzerland;Tanzania;Thailand;Tunisia;Ukraine;United Kingdom;Vietnam"
    ).split(";")
} | {
    "Svalbard & Jan Mayen": "svalbard",
    "U.S. Outlying Islands": "us outlying islands",
    "St. Martin": "saint martin",
    "Heard & McDonald Islands": "heard island",
    "Türkiye": "turkey country",
}  # fmt: skip
FLAGS.pop("Türkiye")  # "turkey" is the bird

# The WordNet sense that the picture shows, where counting shared keywords picks a wrong one: name
# -> how its gloss starts (of the name or its last word), or null, when no gloss fits or a more apt
# concept has it.
SENSES: dict[str, str | None] = read_json(SENSES_FILE)

# Longer names that may borrow the gloss of their last word: it still says what they are.
HEADS_THAT_DEFINE = frozenset(
    "dog cat camel bear chick blossom clover leaf tree soup salad knife truck train banknote "
    "helmet shoe boot doll medal speaker pushpin snowman hourglass newspaper notebook "
    "ruler temple camera apple mask scooter fireworks cookie potato wrench folder sword saw "
    "extinguisher wand pen castle mountain plate page umbrella battery amulet".split()
)

"""Training examples of the tiny keyword model: questions about the tiny world and about hundreds of other things.

The model must answer prompt A.1 for new texts, such as a reader's own question in notebook 01. Therefore an example's
keyword is one of hundreds of everyday nouns or, one time in three, a made-up word (which the model can only copy), and
the phrasings vary. Every seventh noun and the phrasings of :data:`NEW_LESSONS` never occur in training, only in tests.
"""

import re
from collections.abc import Iterator

import numpy as np

from csp_utils.tiny_world.world.questions import rlaif_rows
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, draw_scene
from csp_utils.words.english import article

Row = tuple[str, str, str]
"""Question, answer and keyword."""

EVERYDAY = """
person|people bicycle car motorcycle plane bus|buses train truck boat traffic_light fire_hydrant stop_sign
bench|benches bird cat dog sheep|sheep cow elephant bear zebra giraffe backpack handbag tie suitcase frisbee ski
snowboard ball kite baseball_bat skateboard surfboard tennis_racket bottle wine_glass|wine_glasses cup fork
knife|knives spoon bowl banana apple sandwich|sandwiches broccoli|broccoli carrot hot_dog pizza donut cake chair
couch|couches potted_plant bed dining_table toilet television laptop mouse|mice remote keyboard microwave oven toaster
sink refrigerator book clock vase scissors|scissors teddy_bear hair_dryer toothbrush|toothbrushes man|men woman|women
boy girl child|children baby|babies player skater rider driver chef farmer soldier dancer doctor teacher student
fisherman|fishermen waiter lady|ladies house window door roof fence gate garden street road bridge river lake
beach|beaches mountain hill forest tree leaf|leaves grass|grass bush|bushes rock stone sand|sand sky|skies sun rainbow
snowman|snowmen campfire lantern candle lamp mirror picture painting poster frame carpet curtain pillow blanket towel
shelf|shelves drawer cupboard desk table stool sofa armchair bathtub shower faucet soap|soap brush|brushes comb razor
basket bucket box|boxes bag sack crate barrel jar can mug kettle teapot pan pot plate tray napkin
tablecloth|tablecloths menu cheese|cheese bread|bread butter|butter egg bacon|bacon steak chicken fish|fish shrimp
soup salad pasta|pasta noodle rice|rice burger taco burrito sushi|sushi pancake waffle muffin cookie pie cupcake
chocolate candy|candies ice_cream milk|milk juice coffee|coffee tea|tea beer wine|wine water|water lemon lime grape
strawberry|strawberries blueberry|blueberries cherry|cherries peach|peaches pear plum melon watermelon pineapple mango
coconut potato|potatoes tomato|tomatoes onion garlic|garlic pepper cucumber mushroom corn|corn bean pea
lettuce|lettuce cabbage pumpkin nut popcorn|popcorn potato_chip fruit vegetable shirt jacket coat sweater
dress|dresses skirt trousers|trousers jeans|jeans shorts|shorts sock shoe boot sandal slipper glove scarf|scarves hat
cap helmet belt glasses|glasses sunglasses|sunglasses watch|watches ring necklace bracelet earring button zipper
wallet purse key lock camera tripod microphone speaker headphone radio guitar piano violin drum trumpet flute
saxophone computer monitor tablet printer cable plug socket battery|batteries bulb fan heater stove dishwasher
washing_machine vacuum_cleaner iron ladder hammer saw drill wrench|wrenches screwdriver nail screw rope chain hook
shovel rake hose wheelbarrow tractor plow wagon cart taxi van ambulance fire_truck police_car scooter helicopter
rocket balloon parachute ship canoe kayak sailboat ferry|ferries submarine raft lighthouse pier dock castle
church|churches temple statue fountain monument skyscraper office shop store restaurant cafe hotel hospital school
library|libraries museum stadium station airport platform escalator elevator stair sidewalk crosswalk parking_meter
mailbox|mailboxes billboard sign lamp_post trash_can pole wire antenna chimney balcony|balconies pillar wall floor
ceiling brick tile pipe wheel tire engine mirror_ball headlight license_plate seat saddle bridle reins|reins lion
tiger leopard wolf|wolves fox|foxes deer|deer moose|moose rabbit squirrel hedgehog raccoon monkey gorilla panda koala
kangaroo camel donkey goat pig piglet duck goose|geese swan rooster hen turkey owl eagle hawk parrot penguin pigeon
seagull sparrow peacock flamingo turtle tortoise snake lizard crocodile frog toad shark whale dolphin seal
octopus|octopuses crab lobster snail butterfly|butterflies bee ant spider dragonfly|dragonflies ladybug worm rose
tulip sunflower daisy|daisies lily|lilies cactus|cactuses palm_tree pine_tree branch|branches log stump root seed nest
cage aquarium kennel stable barn windmill scarecrow haystack tent sleeping_bag hammock cooler grill picnic_table swing
slide seesaw sandcastle shell surfer swimmer skier snowboarder goalkeeper referee racket bat puck goal net
trophy|trophies medal dart dice|dice chessboard card puzzle toy doll puppet robot crayon pencil pen eraser ruler
notebook envelope stamp newspaper magazine map globe calculator stapler tape|tape glue|glue whiteboard blackboard
projector screen curtain_rod thermometer syringe pill bandage crutch|crutches wheelchair stretcher mask costume wig
lipstick perfume diaper stroller crib pacifier cigarette lighter ashtray hourglass telescope microscope
binoculars|binoculars compass|compasses flashlight magnet dumbbell treadmill yoga_mat trampoline
"""

ADJECTIVES = (
    "small large big tall short old new young shiny dark light bright dirty clean empty full round square wooden "
    "plastic metal striped spotted colorful pale furry fluffy open closed broken wet dry heavy thin thick long tiny "
    "huge beautiful modern rusty fresh ripe crispy soft lone single"
).split()
COLOR_WORDS = (*COLORS, "brown", "gray", "pink", "silver", "golden", "beige", "turquoise")
VERBS = ("standing lying sitting parked running resting hanging moving waiting sleeping leaning floating flying "
         "shining facing walking jumping").split()
MATERIALS = "wood metal plastic glass leather stone paper cotton wool rubber steel clay".split()
COUNTS = "one two three four five six seven eight nine ten several".split()
WHOLE = ("in the image", "in this image", "in the picture", "in the photo", "in this scene", "here")
SPOTS = ("on the {o}", "in the {o}", "near the {o}", "next to the {o}", "behind the {o}", "in front of the {o}",
         "on the left", "under the {o}", "outside the {o}", "on the right", "in the background", "in the foreground",
         "by the {o}", "")
DETAILS = ("", "", "", "", " It is {where}.", " The {o} is {c2}.", " There is also {a o} {where}.", " It looks {adj}.",
           " In the background, there is {a adj2 o2}.", " The {o} and the {o2} can be seen as well.",
           " The light is bright and the mood is calm.")  # fmt: skip

# Fields: n noun, ns its plural, o, o2 and p other nouns, c and c2 colours, adj and adj2 adjectives, verb, m material,
# k count, kind, where a place; {a x} is x with its article. A lesson is its questions, its answers and the field of the
# keyword: n, or ns where the question says the plural.
_KINDS = ("kind", "type", "sort")
LESSONS = (
    (("What color is the {n}?", "What color is the {n} {where}?", "What is the color of the {n} {where}?",
      "Which color does the {n} {where} have?", "Tell me the color of the {n}."),
     ("The {n} is {c}.", "{c}", "It is {c}.", "The {n} {where} is {adj} and {c}.", "The color of the {n} is {c}.",
      "The {n} {verb} {where} is a {adj} {c} one.", "The {n} has {c} and {c2} parts."), "n"),
    (("Is there {a n} {where}?", "Is there {a c n} in the image?", "Can you see {a n} {where}?",
      "Does the picture show {a n}?", "Do you see {a adj n} {where}?", "Is {a n} visible {where}?"),
     ("Yes", "No", "Yes, there is {a n} {where}.", "Yes, there is {a c n} in the image.",
      "No, there is no {n} in the image.", "No, I cannot see {a n}.", "Yes, {a adj n} is {verb} {where}.",
      "No, but there is {a o} {where}."), "n"),
    (("Are there any {ns} {where}?", "What {kind} of {ns} are {where}?", "What color are the {ns} {where}?",
      "Are the {ns} {c}?", "What are the {ns} doing?", "Where are the {ns}?", "Which {ns} are shown {where}?"),
     ("Yes", "No", "The {ns} are {c}.", "There are some {adj} {c} {ns} {where}.", "They are {adj}.",
      "The {ns} are {where}.", "Yes, the {ns} are {verb} {where}.", "The {o} holds {adj} {c} {o2}."), "ns"),
    (("Is the {n} {c} {where}?", "Is the {n} {adj}?", "Is the {n} {adj} or {adj2}?", "Is the {n} {where} {verb}?",
      "Does the {n} look {adj}?", "Is the {n} {verb} upright or lying on its side?", "Is this {n} {c} or {c2}?"),
     ("Yes", "No", "Yes, the {n} is {c}.", "No, the {n} is {c2}.", "The {n} is {adj}.", "It is {adj}, not {adj2}.",
      "The {n} is {verb} {where}.", "No, it is {verb} {where}."), "n"),
    (("How many {ns} are there {where}?", "How many {ns} can you see?", "How many {ns} are {where}?",
      "Count the {ns} {where}."),
     ("There are {k} {ns}.", "{k}", "There is one {n}.", "I can see {k} {ns} {where}.",
      "There are {k} {c} {ns} {where}."), "n"),
    (("What {kind} of {n} is {where}?", "What {kind} of {n} is this?", "What {kind} of {n} is shown {where}?"),
     ("It is {a adj n}.", "The {n} is {a adj c} one.", "This is {a adj n} {where}.", "There is {a c o} {where}."), "n"),
    (("Where is the {n}?", "Where is the {n} {verb}?", "Where can the {n} be found?"),
     ("The {n} is {where}.", "It is {where}.", "The {n} is {verb} {where}, close to {a o}."), "n"),
    (("What is {where}?", "What is the main object {where}?", "Describe the image.", "What does the photo show?",
      "What can you see {where}?", "What do you see?", "Please describe this picture."),
     ("{a n}", "{a adj n} {where}.", "The image shows {a n} {where}.", "There is {a adj c n} {where}.",
      "I see {a c n}.", "This is a photo of {a adj n} {where}.", "{a n} and {a o}.",
      "The picture features {a n} {verb} {where}."), "n"),
    (("What is the {n} doing?", "What is the {n} doing {where}?", "How does the {n} look?",
      "What does the {n} look like?", "Describe the {n} in detail.", "What can you tell me about the {n} {where}?",
      "What is special about the {n}?"),
     ("The {n} is {verb} {where}.", "It is {verb} {where}.", "The {n} is {adj} and {c}.",
      "It is {a adj} {n} with {a o}."), "n"),
    (("What is the {n} made of?", "What material is the {n} {where}?"),
     ("The {n} is made of {m}.", "It is made of {m}.", "{m}"), "n"),
    (("What is the {p} holding?", "What is the {p} looking at?", "What does the {p} have {where}?",
      "What is {where} of the {p}?"),
     ("The {p} is holding {a n}.", "{a adj n}", "It is {a c n} {where}.", "There is {a n}."), "n"),
    (("Is the {n} {where} of the {o}?", "Is there direct contact between the {n} and the {o}?",
      "Is the {n} bigger than the {o}?", "Is the {n} next to the {o}?", "Is the {n} to the left of the {o}?",
      "What is the {n} on the {o} like?"),
     ("Yes", "No", "Yes, the {n} is next to the {o}.", "No, the {n} and the {o} are apart.",
      "The {n} is {where}."), "n"),
)  # fmt: skip
NEW_LESSONS = (
    (("Could you tell me what color the {n} is?", "I would like to know the color of the {n}.",
      "Which shade is the {n}?"),
     ("I think the {n} is {c}.", "That {n} appears {c}."), "n"),
    (("Does this scene contain {a n}?", "Is it true that {a n} appears {where}?", "Has someone placed {a n} {where}?"),
     ("Indeed, {a c n} appears {where}.", "I do not find {a n}."), "n"),
    (("How big is the {n}?", "Why is the {n} {where}?", "What shape does the {n} have?",
      "Who is using the {n} {where}?"),
     ("The {n} seems {adj}.", "Somebody left the {n} {where}."), "n"),
    (("Identify the most prominent thing.", "Give a short caption."),
     ("One {adj} {n} is {verb} {where}.", "You are looking at {a c n} {where}."), "n"),
)  # fmt: skip


def _pair(word: str) -> tuple[str, str]:
    """Read an entry of :data:`EVERYDAY`, "singular" or "singular|plural"."""
    one, _, many = word.replace("_", " ").partition("|")
    return one, many or one + "s"


def _nouns() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Split all nouns into those of training and those of tests alone."""
    pairs = sorted({_pair(word) for word in EVERYDAY.split()})
    tiny = [(noun, noun + "s") for noun in NOUNS]
    return tiny + [p for i, p in enumerate(pairs) if i % 7 != 3], [p for i, p in enumerate(pairs) if i % 7 == 3]


KNOWN, NEW = _nouns()
"""(singular, plural) of the nouns of training, and of the nouns that training never shows."""


def made_up(rng: np.random.Generator) -> tuple[str, str]:
    """Make up a pronounceable word that does not exist, and its plural."""
    onsets = "b bl br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh sk sl st t th tr v w z".split()
    rimes = "a e i o u ai ea ee oo ou an en in on ar er or al el il at et it ack ock ick amp ond ung".split()
    syllables = int(rng.integers(1, 4))
    word = "".join(onsets[rng.integers(len(onsets))] + rimes[rng.integers(len(rimes))] for _ in range(syllables))
    word += "" if rng.random() < 0.5 else "bdgklmnprt"[rng.integers(10)]
    return word, word + "s"


def lesson(rng: np.random.Generator, nouns: list[tuple[str, str]], lessons: tuple = LESSONS) -> Row:
    """Make an example about one of ``nouns``, or about a made-up word if there are none."""

    def pick(options):
        return options[rng.integers(len(options))]

    questions, answers, target = pick(lessons)
    n, ns = pick(nouns) if nouns else made_up(rng)
    others = [pick(KNOWN)[0] if rng.random() < 0.8 else made_up(rng)[0] for _ in range(3)]
    words = {"n": n, "ns": ns, "o": others[0], "o2": others[1], "p": others[2], "m": pick(MATERIALS), "k": pick(COUNTS)}
    words |= {"c": pick(COLOR_WORDS), "c2": pick(COLOR_WORDS), "adj": pick(ADJECTIVES), "adj2": pick(ADJECTIVES)}
    words |= {"verb": pick(VERBS), "kind": pick(_KINDS)}

    def fill(template: str) -> str:
        where = pick(WHOLE) if rng.random() < 0.4 else pick(SPOTS)
        out = template.replace("{where}", where)
        out = re.sub(r"{a (.*?)}", lambda match: article(" ".join(words[w] for w in match[1].split())), out)
        out = re.sub(r" ([?.,])", r"\1", " ".join(out.format(**words).split()))
        return out[:1].upper() + out[1:]

    question, answer = fill(pick(questions)), fill(pick(answers))
    if len(answer) > 12 and (detail := pick(DETAILS)):
        answer += " " + fill(detail.strip())
    if rng.random() < 0.05:  # as if typed in haste
        question, answer = question.lower().rstrip("?."), answer.lower().rstrip(".")
    return question, answer, words[target]


def scene_rows(split: str, n_scenes: int, rows_per_scene: int, seed: int) -> list[Row]:
    """Make rows about ``n_scenes`` scenes of a split. One answer in four is the rejected one."""
    rng = np.random.default_rng([seed, 41])
    out = []
    for index in range(n_scenes):
        for row in rlaif_rows(draw_scene(split, index, seed), rows_per_scene, seed):
            answer = row["rejected" if rng.random() < 0.25 else "chosen"]
            out.append((row["question"], answer, row["keyword"]))
    return out


def stream(rows: list[Row], seed: int) -> Iterator[Row]:
    """Sample training examples without end: 30 % from ``rows``, the rest lessons, 35 % of these with made-up words."""
    rng = np.random.default_rng([seed, 42])
    while True:
        if rng.random() < 0.3:
            yield rows[rng.integers(len(rows))]
        else:
            yield lesson(rng, [] if rng.random() < 0.35 else KNOWN)

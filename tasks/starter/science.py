"""Cluster 'science': animals, the human body, nature, sizes and the use of things."""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import alternatives, facts, grouped, shuffled, table, with_options

CLUSTER = "science"

ANIMALS = grouped(
    """
    mammal: dog, cat, horse, cow, elephant, whale, dolphin, bat, mouse, rabbit, lion, bear, monkey, kangaroo, seal
    mammal: sheep, pig, goat, giraffe, camel, squirrel, hedgehog, otter, zebra
    bird: eagle, sparrow, penguin, ostrich, owl, parrot, duck, swan, chicken, pigeon, crow, flamingo, robin, falcon
    bird: seagull, peacock, turkey, stork, pelican, woodpecker, hummingbird, goose
    reptile: crocodile, alligator, tortoise, cobra, iguana, gecko, chameleon, rattlesnake, python, viper, lizard
    reptile: sea turtle, Komodo dragon
    fish: salmon, tuna, trout, shark, cod, herring, goldfish, seahorse, eel, carp, sardine, pike, mackerel, piranha
    fish: swordfish, halibut
    amphibian: frog, toad, salamander, newt, axolotl, tree frog
    insect: ant, bee, butterfly, mosquito, beetle, grasshopper, wasp, dragonfly, cockroach, ladybird, moth, cricket
    insect: termite, housefly, flea, firefly
    """
)
_CLASSES = list(ANIMALS)

# question | answer; accepted alternatives | wrong options
QUESTIONS = table(
    """
    Which planet is closest to the Sun? | Mercury | Venus; Mars; Jupiter
    Which planet is the largest in the solar system? | Jupiter | Saturn; Earth; Neptune
    Which planet is known as the red planet? | Mars | Venus; Mercury; Uranus
    Which planet do people live on? | Earth | Mars; Venus; Saturn
    What does the Moon move around? | Earth | Mars; Venus; Jupiter
    What is the star at the centre of our solar system? | the Sun | the Moon; Sirius; Polaris
    What force pulls things towards the ground? | gravity | magnetism; friction; electricity
    What gas do people need to breathe in to live? | oxygen | helium; nitrogen; carbon dioxide
    Which gas do plants take in for photosynthesis? | carbon dioxide; CO2 | oxygen; helium; hydrogen
    Which gas makes up most of the air? | nitrogen | oxygen; argon; carbon dioxide
    Which gas is used to make party balloons float? | helium | oxygen; nitrogen; carbon dioxide
    What is frozen water called? | ice | steam; fog; dew
    What does water become when it boils? | steam; water vapor; water vapour; vapor | ice; snow; frost
    Which organ pumps blood through the body? | heart | liver; lungs; stomach
    Which organ do people think with? | brain | heart; kidney; skin
    Which organs take in air? | lungs | kidneys; muscles; bones
    Which organ is the largest of the human body? | skin | heart; brain; tongue
    Which organ do we see with? | eye; eyes | ear; nose; tongue
    Which organ do we hear with? | ear; ears | eye; nose; skin
    Which organ do we smell with? | nose | ear; eye; knee
    Which organ do we taste with? | tongue | elbow; ear; eye
    Which organs clean the blood and make urine? | kidneys | lungs; eyes; ears
    Where is food digested first after it is swallowed? | stomach | brain; heart; lungs
    What carries oxygen in the blood? | red blood cells; hemoglobin; haemoglobin | bones; nerves; hair
    What connects muscles to bones? | tendons | nerves; veins; nails
    What is the hard outer layer of a tooth called? | enamel | marrow; cartilage; pulp
    How many legs does a spider have? | eight; 8 | four; six; ten
    How many legs does an insect have? | six; 6 | four; eight; ten
    How many arms does an octopus have? | eight; 8 | five; six; ten
    How many legs does a dog have? | four; 4 | two; six; eight
    How many wings does a bird have? | two; 2 | one; four; six
    How many chambers does the human heart have? | four; 4 | one; six; eight
    How many planets are in the solar system? | eight; 8 | five; seven; twelve
    What do bees make? | honey | milk; silk; cheese
    What do cows give people to drink? | milk | honey; juice; oil
    What do hens lay? | eggs | milk; wool; honey
    What do sheep give people for making warm clothes? | wool | silk; leather; cotton
    What do silkworms make? | silk | wool; cotton; paper
    What do caterpillars turn into? | butterflies; butterfly; moths; butterflies or moths | frogs; spiders; birds
    What do tadpoles turn into? | frogs; frog | fish; snakes; ducks
    What do acorns grow into? | oak trees; oaks; oak; oak tree | apple trees; roses; pines
    Which part of a plant takes up water from the soil? | roots; root | flower; leaf; fruit
    Which part of a plant makes most of its food from light? | leaves; leaf | roots; seeds; petals
    What colours leaves green? | chlorophyll | iron; sugar; calcium
    What do pandas mostly eat? | bamboo | fish; honey; grass seeds
    What do koalas mostly eat? | eucalyptus leaves; eucalyptus | fish; bananas; worms
    What do carnivores eat? | meat; other animals; animals | grass; fruit; stones
    What do herbivores eat? | plants | meat; insects; fish
    Which animal is the largest on Earth? | blue whale | elephant; giraffe; hippopotamus
    Which animal is the tallest? | giraffe | elephant; ostrich; camel
    Which land animal runs fastest? | cheetah | lion; horse; wolf
    Which bird is the largest? | ostrich | eagle; swan; turkey
    Which mammal can truly fly? | bat | squirrel; whale; mole
    Which animal carries its young in a pouch? | kangaroo | horse; rabbit; fox
    Which animal has a trunk? | elephant | lion; zebra; bear
    Which animal has black and white stripes? | zebra | lion; camel; moose
    Which animal stores fat in its hump? | camel | horse; cow; giraffe
    Which animal builds dams in rivers? | beaver | fox; bear; deer
    Which animal spins a web? | spider | ant; bee; snail
    Which lizard is famous for changing its colour? | chameleon | gecko; iguana; monitor
    What do fish breathe with? | gills | lungs; skin; ears
    What covers the body of a bird? | feathers | scales; fur; shells
    What covers the body of most fish? | scales | feathers; fur; wool
    Which season comes after winter? | spring | summer; autumn; monsoon
    Which season comes after summer? | autumn; fall | winter; spring; monsoon
    In which direction does the Sun rise? | east; in the east; the east | west; north; south
    In which direction does the Sun set? | west; in the west; the west | east; north; south
    What can be seen in the sky when the sun shines through rain? | rainbow | comet; eclipse; meteor
    What causes the tides of the sea? | the Moon; the Moon's gravity | earthquakes; ships; rain
    What comes out of a volcano? | lava | sand; oil; honey
    What is the hardest natural material? | diamond | gold; iron; wood
    What metal do magnets pull most strongly? | iron | gold; copper; silver
    Which metal is liquid at room temperature? | mercury | iron; copper; zinc
    What is the chemical formula of water? | H2O | CO2; NaCl; O2
    What is the common name of sodium chloride? | salt; table salt; common salt | sugar; chalk; vinegar
    At how many degrees Celsius does water freeze? | 0; zero | 10; 50; 100
    At how many degrees Celsius does water boil at sea level? | 100 | 0; 10; 50
    What do we measure with a thermometer? | temperature | weight; time; speed
    What do we measure with a clock? | time | temperature; length; weight
    What do we measure with a ruler? | length | time; temperature; weight
    What do we measure with scales? | weight; mass | time; length; speed
    What instrument makes distant stars look nearer? | telescope | microscope; thermometer; stethoscope
    What instrument makes tiny things look bigger? | microscope | barometer; telescope; compass
    What instrument shows where north is? | compass | thermometer; clock; barometer
    What instrument does a doctor use to listen to the heart? | stethoscope | telescope; compass; microscope
    What is the study of living things called? | biology | geology; astronomy; history
    What is the study of stars and planets called? | astronomy | biology; botany; economics
    What is the study of rocks called? | geology | zoology; botany; music
    Which vitamin does sunlight on the skin help to make? | vitamin D; D | vitamin C; vitamin K; vitamin A
    Which vitamin are oranges known for? | vitamin C; C | vitamin D; vitamin K; vitamin B12
    What molecule carries our genes? | DNA | water; glucose; fat
    What is the powerhouse of the cell called? | mitochondrion; mitochondria | nucleus; membrane; wall
    What travels faster than anything else? | light | sound; wind; rain
    What can sound not travel through? | a vacuum; vacuum; empty space | water; air; steel
    What do we call animals without a backbone? | invertebrates | mammals; birds; reptiles
    What do we call scientists who study the weather? | meteorologists | dentists; geologists; chemists
    What is a baby dog called? | puppy; pup | kitten; calf; foal
    What is a baby cat called? | kitten | puppy; lamb; chick
    What is a baby cow called? | calf | foal; lamb; kitten
    What is a baby horse called? | foal | calf; puppy; chick
    What is a baby sheep called? | lamb | kid; foal; duckling
    What is a baby hen called? | chick | kitten; calf; cub
    """,
    "question",
    "answers",
    "wrong",
)

# From small to large; things on one line are of like size, those two lines apart are not.
_SIZES = """
    flea, grain of sand, poppy seed
    ant, grain of rice, lentil
    bee, coin, grape
    mouse, egg, matchbox
    kitten, shoe, loaf of bread
    dog, chair, suitcase
    cow, sofa, piano
    elephant, bus, truck
    house, blue whale, church
    stadium, airport, village
    mountain, city, lake
    country, ocean, continent
"""
SIZES = [[thing.strip() for thing in line.split(",")] for line in _SIZES.strip().splitlines()]

# job | thing | things that do not serve
USES = table(
    """
    cut paper | scissors | spoon; pillow; ladder
    drive a nail into wood | hammer | comb; towel; bottle
    turn a screw | screwdriver | saw; brush; fork
    saw a board | saw | hammer; sponge; pencil
    tighten a bolt | wrench; spanner | needle; broom; ruler
    dig a hole in the garden | shovel; spade | rake handle; kettle; bucket lid
    sweep the floor | broom | fork; lamp; pillow
    eat soup | spoon | knife; straw hat; comb
    cut bread | knife | spoon; cup; towel
    boil water for tea | kettle | fridge; basket; plate
    keep food cold | refrigerator; fridge | oven; drawer; kettle
    bake a cake | oven | fridge; sink; washing machine
    wash clothes | washing machine | oven; bookcase; toaster
    toast bread | toaster | fridge; blender; sink
    dry your hands | towel | comb; mirror; soap dish
    brush your teeth | toothbrush | hairbrush; broom; paintbrush
    comb your hair | comb | fork; toothbrush; ladle
    stay dry in the rain | umbrella | fan; mirror; belt
    see in the dark | flashlight; torch | sunglasses; blanket; whistle
    tell the time | watch; clock | ring; compass; wallet
    write a letter by hand | pen | fork; scissors; eraser
    remove a pencil mark | eraser; rubber | pen; stapler; ruler
    measure a line | ruler | stapler; glue; pencil sharpener
    sharpen a pencil | pencil sharpener; sharpener | eraser; tape; ruler
    fasten sheets of paper together | stapler | crayon; magnet ring; ruler
    call a friend far away | telephone; phone | radio antenna; book; lamp
    take a photograph | camera | mirror; projector; lamp
    cross a river without getting wet | boat | bicycle; ladder; tent
    fly to another country | airplane; plane; aeroplane | train; car; ship
    sleep outdoors in the forest | tent | desk; boat motor; mailbox
    climb onto a roof | ladder | rope swing; chair leg; broom
    open a locked door | key | coin; spoon; feather
    carry water to the plants | watering can | basket; sieve; net
    catch fish | fishing rod; net | bow tie; racket; shovel
    light a candle | match; lighter | magnet; spoon; pen
    sew on a button | needle | hammer; pin cushion; hook rug
    iron a shirt | iron | toaster; pan; heater
    look at yourself | mirror | window blind; wall; book
    listen to music alone on a train | headphones | loudspeaker tower; glasses; gloves
    play a song with black and white keys | piano | drum; violin; flute
    hit a ball over a net | racket; tennis racket | bow; oar; fork
    row a boat | oar; oars | bat; pole lamp; broom
    protect your head on a bicycle | helmet | scarf; sock; belt
    keep your hands warm | gloves; mittens | sandals; belt; tie
    keep your feet dry in puddles | rubber boots; boots | sandals; slippers; socks
    hold up your trousers | belt | tie; scarf; glove
    see better when reading | glasses; spectacles | gloves; earplugs; candleholder
    block out noise | earplugs | glasses; gloves; magnet
    weigh flour | scales; scale; kitchen scale | clock; ruler; thermometer
    measure a fever | thermometer | ruler; clock; scales
    put out a fire | fire extinguisher | candle; heater; match
    cool a hot room | fan; air conditioner | heater; blanket; stove
    warm a cold room | heater | fan; fridge; ice cube tray
    cover a bed | blanket | carpet knife; curtain rod; doormat
    rest your head while sleeping | pillow | brick; plate; book
    carry books to school | backpack; bag; schoolbag | wallet; hat; frying pan
    keep coins and banknotes | wallet; purse | hat; envelope opener; comb
    mail a letter | envelope | frame; plate; box of nails
    hang a wet shirt to dry | clothesline; washing line | bookshelf; drawer; fridge
    mix dough by hand | bowl | sieve; plate; basket
    flip a pancake | spatula | knife sharpener; straw; whisk
    drain pasta | colander; strainer; sieve | bowl; pot lid; mug
    fry an egg | frying pan; pan | kettle; mug; sieve
    open a bottle of wine | corkscrew | screwdriver; ladle; spoon
    open a tin | can opener; tin opener | corkscrew; fork; whisk
    peel potatoes | peeler; potato peeler; knife | spoon; whisk; ladle
    grate cheese | grater | peg; whisk; ladle
    drink juice without lifting the glass | straw | fork; napkin; knife
    wipe your mouth at the table | napkin | fork; tablecloth; spoon
    clean a window | sponge; cloth | hammer; comb; rake
    gather fallen leaves | rake | spoon; saw; hose
    water a large lawn | hose; garden hose; sprinkler | cup; bucket lid; spoon
    mow the lawn | lawnmower; lawn mower; mower | rake; axe; broom
    chop firewood | axe; ax | hammer; spoon; scissors
    paint a wall | paintbrush; brush; roller; paint roller | toothbrush; pen; sponge cake
    stop a small cut from bleeding | bandage; plaster; band-aid | thread; paper clip; stamp
    look at the stars | telescope | microscope; sunglasses; mirror
    look at a drop of water very closely | microscope | telescope; binoculars; camera stand
    find north | compass | clock; ruler; scales
    slow down a fall from an airplane | parachute | umbrella; balloon; kite
    move across snow quickly downhill | skis; sled; sledge; snowboard | skates; bicycle; flippers
    glide on ice | ice skates; skates | flippers; sandals; stilts
    swim faster under water | flippers; fins | boots; skis; stilts
    breathe under water for a long time | oxygen tank; scuba tank; air tank | balloon; bucket; straw hat
    find your way in an unknown city | map | calendar; novel; menu
    learn what a word means | dictionary | calendar; cookbook; atlas
    pick up tiny metal splinters from the skin | tweezers | ladle; glove; brush
    pump up a flat bicycle tyre | pump; bicycle pump | whistle; fan; bell
    stick a stamp on a letter | glue | water bottle; clip; pencil
    blend fruit for a smoothie | blender; mixer | toaster; kettle; oven
    roll out dough | rolling pin | whisk; fork; tongs
    beat egg whites | whisk; mixer; beater | knife; grater; spatula
    tie up a parcel | string; rope | pencil; ruler; coin
    wake up at six in the morning | alarm clock; alarm | pillow; calendar; lamp
    see which day it is | calendar | dictionary; map; mirror
    """,
    "job",
    "things",
    "wrong",
)


def _questions() -> list[dict[str, str | list[str]]]:
    rows: list[dict[str, str | list[str]]] = []
    for row in QUESTIONS:
        answers = alternatives(row["answers"])
        options = with_options(answers[0], alternatives(row["wrong"]), 3, "science_question", row["question"])
        rows.append({"question": row["question"], "options": options, "answer": answers[0], "answers": answers})
    return rows


def _uses() -> list[dict[str, str | list[str]]]:
    rows: list[dict[str, str | list[str]]] = []
    for row in USES:
        answer = alternatives(row["things"])[0]
        options = with_options(answer, alternatives(row["wrong"]), 3, "thing_for_job", row["job"])
        rows.append({"job": row["job"], "options": options, "answer": answer})
    return rows


def _size_pairs() -> list[dict[str, str | list[str]]]:
    rows: list[dict[str, str | list[str]]] = []
    for small, things in enumerate(SIZES):
        for thing in things:
            larger = [other for line in SIZES[small + 2 :] for other in line]
            for other in shuffled(larger, "larger_thing", thing)[:5]:
                options = shuffled([thing, other], "larger_thing", thing, other)
                rows.append({"pair": " and ".join(sorted(options)), "options": options, "answer": other})
    return rows


add_task(
    "animal_class",
    cluster=CLUSTER,
    source=facts(
        [
            {"animal": animal, "options": _CLASSES, "answer": kind}
            for kind, animals in ANIMALS.items()
            for animal in animals
        ],
        key="animal",
    ),
    templates=[
        "What kind of animal is this: {animal}?\n{options}",
        "Which class of animals does the {animal} belong to: {options_inline}?",
        "Animal: {animal}\nClass ({options_inline}):",
        "Choose the group that fits the animal named {animal}.\n{options}",
        "{options}\n\nA book sorts animals into these chapters. In which chapter is the {animal}?",
        "Mammal, bird, reptile, fish, amphibian or insect: what is the {animal}? One word.",
    ],
    metrics=[exact_match],
)

add_task(
    "science_question",
    cluster=CLUSTER,
    source=facts(_questions(), key="question"),
    templates=[
        "{question}\n{options}",
        "Answer this question with one of the options.\n{question}\nOptions: {options_inline}",
        "{question} ({options_inline})",
        "Question: {question}\n{options}\nAnswer:",
        "Give a short answer: {question}",
        "{question}",
        "Quiz time! {question} Just the answer, please.",
        "Q: {question}\nA:",
    ],
    metrics=[exact_match],
)

add_task(
    "thing_for_job",
    cluster=CLUSTER,
    source=facts(_uses(), key="job"),
    templates=[
        "Which of these things helps to {job}?\n{options}",
        "I want to {job}. Should I take {options_inline}?",
        "Job: {job}\nThings: {options_inline}\nBest thing:",
        "{options}\n\nPick the one that is made to {job}.",
        "Choose what one needs in order to {job}: {options_inline}.",
        "What would you use to {job}? The choices are\n{options}",
    ],
    metrics=[exact_match],
)

add_task(
    "larger_thing",
    cluster=CLUSTER,
    source=facts(_size_pairs(), key="pair"),
    templates=[
        "Which is usually larger?\n{options}",
        "What is bigger, {options_inline}?",
        "Things: {options_inline}\nThe larger one:",
        "Compare their sizes and name the bigger one: {options_inline}",
        "{options}\n\nOne of these needs more room. Which?",
    ],
    metrics=[exact_match],
)

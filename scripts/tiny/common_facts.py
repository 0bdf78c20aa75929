"""Questions about the everyday world and their answers, in our own words (Apache-2.0, as the rest of the repository).

A few hundred of them go into the text that the tiny model is trained on: they show it that a question may be asked in
several ways, and that an answer repeats what was asked. Nothing here is about the world of examples/qlora/data, so
that fine-tuning has something to teach.
"""

# Of each fact: how it may be asked, how it is answered, and the rows that fill both.
FACTS = [
    (
        ["What colour is {0}?", "What is the colour of {0}?", "Tell me the colour of {0}.", "Which colour has {0}?"],
        "{0} is {1}.",
        ["the grass|green", "the snow|white", "the sky|blue", "the coal|black", "the milk|white", "the blood|red",
         "the night|black", "the sun|yellow", "the crow|black", "the swan|white", "the wood|brown", "the butter|yellow"],
    ),
    (
        ["Where does {0} live?", "Where is the home of {0}?", "In what place does {0} live?", "Where can I find {0}?"],
        "{0} lives {1}.",
        ["the fish|in the water", "the bird|in a nest", "the king|in a palace", "the fox|in the forest",
         "the bee|in a hive", "the farmer|on a farm", "the rabbit|under the hill", "the bear|in the woods",
         "the sailor|on a ship", "the spider|in a web", "the horse|in a stable", "the frog|by the pond"],
    ),
    (
        ["What does {0} eat?", "What does {0} like to eat?", "What is the food of {0}?", "Tell me what {0} eats."],
        "{0} eats {1}.",
        ["the cow|grass", "the cat|mice", "the horse|hay", "the squirrel|nuts", "the dog|bones", "the bird|seeds",
         "the bear|honey", "the child|bread", "the fox|hens", "the monkey|fruit", "the goat|leaves", "the hen|corn"],
    ),
    (
        ["How many {0} has {1}?", "How many {0} does {1} have?", "What number of {0} has {1}?", "Count the {0} of {1}."],
        "{1} has {2} {0}.",
        ["legs|the dog|four", "legs|the bird|two", "legs|the spider|eight", "fingers|the hand|five", "days|the week|seven",
         "months|the year|twelve", "hours|the day|twenty-four", "wheels|the cart|two", "eyes|the man|two",
         "ears|the rabbit|two", "legs|the bee|six", "sides|the box|six"],
    ),
    (
        ["Who makes {0}?", "By whom is {0} made?", "Tell me who makes {0}.", "What is the name for one who makes {0}?"],
        "{1} makes {0}.",
        ["bread|the baker", "a coat|the tailor", "a shoe|the shoemaker", "flour|the miller", "honey|the bee",
         "a wheel|the wheelwright", "a horseshoe|the smith", "a web|the spider", "a table|the carpenter",
         "dinner|the cook", "a picture|the painter", "a song|the singer"],
    ),
    (
        ["When do we {0}?", "At what time do we {0}?", "What is the time to {0}?", "Tell me when we {0}."],
        "We {0} {1}.",
        ["sleep|at night", "wake|in the morning", "have dinner|at noon", "see the stars|at night", "light the fire|in winter",
         "gather the corn|in autumn", "see the snow|in winter", "plant the seeds|in spring", "have supper|in the evening",
         "see the moon|at night", "pick the roses|in summer", "have breakfast|in the morning"],
    ),
    (
        ["What is {0} made of?", "Of what is {0} made?", "From what do we make {0}?", "Tell me what {0} is made of."],
        "{0} is made of {1}.",
        ["bread|flour", "butter|milk", "a house|stone", "a table|wood", "a ring|gold", "a candle|wax", "a coat|wool",
         "a window|glass", "a book|paper", "a key|iron", "a shoe|leather", "a boat|wood"],
    ),
    (
        ["What is the name of {0}?", "How is {0} called?", "What do we call {0}?", "Tell me the name of {0}."],
        "{0} is called {1}.",
        ["the child of a cow|a calf", "the child of a dog|a puppy", "the child of a cat|a kitten", "the child of a sheep|a lamb",
         "the wife of a king|a queen", "the son of a king|a prince", "the daughter of a king|a princess",
         "the brother of my father|my uncle", "the sister of my mother|my aunt", "the first meal of the day|breakfast",
         "the last day of the week|Sunday", "the house of a bird|a nest"],
    ),
]


def questions_and_answers():
    """Yields every question with its answer."""
    for forms, answer, rows in FACTS:
        for row in rows:
            values = row.split("|")
            for form in forms:
                yield sentence(form.format(*values)), sentence(answer.format(*values))


def sentence(text):
    return text[0].upper() + text[1:]

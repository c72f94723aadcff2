"""Ordinary sentences, written for the tests of the real encoder: the stated figures are those on them."""

SENTENCES = [
    "The old farmer walked slowly across the muddy field this morning.",
    "My sister bought three green apples at the market on Sunday.",
    "Scientists discovered a new planet that orbits a distant yellow star.",
    "The train to the city was late because of heavy snow.",
    "He wrote a long letter to his friend who lives abroad.",
    "Children were playing football in the park behind the old school.",
    "The museum will open a new exhibition about ancient Egypt soon.",
    "She forgot her umbrella at home and got wet on the way.",
    "The company announced that its profits doubled during the last year.",
    "A small black cat was sleeping quietly under the kitchen table.",
    "Our teacher explained the difficult problem twice before the exam.",
    "The river was so clear that we could see every stone.",
]

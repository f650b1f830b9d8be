"""Cluster 'culture': who wrote, painted and composed famous works."""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import facts, table, with_options, without_accents

CLUSTER = "culture"

# book or play | author; works of one author are in the same split.
BOOKS = table(
    """
    1984 | George Orwell
    A Christmas Carol | Charles Dickens
    A Doll's House | Henrik Ibsen
    A Farewell to Arms | Ernest Hemingway
    A Tale of Two Cities | Charles Dickens
    Adventures of Huckleberry Finn | Mark Twain
    Alice's Adventures in Wonderland | Lewis Carroll
    Animal Farm | George Orwell
    Anna Karenina | Leo Tolstoy
    Around the World in Eighty Days | Jules Verne
    Beloved | Toni Morrison
    Brave New World | Aldous Huxley
    Candide | Voltaire
    Charlie and the Chocolate Factory | Roald Dahl
    Charlotte's Web | E. B. White
    Crime and Punishment | Fyodor Dostoevsky
    David Copperfield | Charles Dickens
    Death of a Salesman | Arthur Miller
    Doctor Zhivago | Boris Pasternak
    Don Quixote | Miguel de Cervantes
    Dracula | Bram Stoker
    Dune | Frank Herbert
    Emma | Jane Austen
    Fahrenheit 451 | Ray Bradbury
    Faust | Johann Wolfgang von Goethe
    Foundation | Isaac Asimov
    Frankenstein | Mary Shelley
    Gone with the Wind | Margaret Mitchell
    Great Expectations | Charles Dickens
    Gulliver's Travels | Jonathan Swift
    Hamlet | William Shakespeare
    Harry Potter and the Philosopher's Stone | J. K. Rowling
    Heart of Darkness | Joseph Conrad
    Heidi | Johanna Spyri
    In Search of Lost Time | Marcel Proust
    Jane Eyre | Charlotte Brontë
    Les Misérables | Victor Hugo
    Life of Pi | Yann Martel
    Little Women | Louisa May Alcott
    Lolita | Vladimir Nabokov
    Lord of the Flies | William Golding
    Macbeth | William Shakespeare
    Madame Bovary | Gustave Flaubert
    Matilda | Roald Dahl
    Middlemarch | George Eliot
    Midnight's Children | Salman Rushdie
    Moby-Dick | Herman Melville
    Mrs Dalloway | Virginia Woolf
    Murder on the Orient Express | Agatha Christie
    Of Mice and Men | John Steinbeck
    Oliver Twist | Charles Dickens
    On the Origin of Species | Charles Darwin
    On the Road | Jack Kerouac
    One Hundred Years of Solitude | Gabriel García Márquez
    Othello | William Shakespeare
    Paradise Lost | John Milton
    Peter Pan | J. M. Barrie
    Pride and Prejudice | Jane Austen
    Pygmalion | George Bernard Shaw
    Rebecca | Daphne du Maurier
    Robinson Crusoe | Daniel Defoe
    Romeo and Juliet | William Shakespeare
    Sense and Sensibility | Jane Austen
    Slaughterhouse-Five | Kurt Vonnegut
    The Adventures of Pinocchio | Carlo Collodi
    The Adventures of Tom Sawyer | Mark Twain
    The Alchemist | Paulo Coelho
    The Art of War | Sun Tzu
    The Call of the Wild | Jack London
    The Canterbury Tales | Geoffrey Chaucer
    The Catcher in the Rye | J. D. Salinger
    The Cherry Orchard | Anton Chekhov
    The Count of Monte Cristo | Alexandre Dumas
    The Da Vinci Code | Dan Brown
    The Divine Comedy | Dante Alighieri
    The Grapes of Wrath | John Steinbeck
    The Great Gatsby | F. Scott Fitzgerald
    The Handmaid's Tale | Margaret Atwood
    The Hitchhiker's Guide to the Galaxy | Douglas Adams
    The Hobbit | J. R. R. Tolkien
    The Hunger Games | Suzanne Collins
    The Importance of Being Earnest | Oscar Wilde
    The Jungle Book | Rudyard Kipling
    The Lion, the Witch and the Wardrobe | C. S. Lewis
    The Little Prince | Antoine de Saint-Exupéry
    The Lord of the Rings | J. R. R. Tolkien
    The Metamorphosis | Franz Kafka
    The Name of the Rose | Umberto Eco
    The Odyssey | Homer
    The Old Man and the Sea | Ernest Hemingway
    The Picture of Dorian Gray | Oscar Wilde
    The Raven | Edgar Allan Poe
    The Republic | Plato
    The Scarlet Letter | Nathaniel Hawthorne
    The Secret Garden | Frances Hodgson Burnett
    The Shining | Stephen King
    The Sound and the Fury | William Faulkner
    The Stranger | Albert Camus
    The Three Musketeers | Alexandre Dumas
    The Time Machine | H. G. Wells
    The Trial | Franz Kafka
    The War of the Worlds | H. G. Wells
    The Wind in the Willows | Kenneth Grahame
    Things Fall Apart | Chinua Achebe
    To Kill a Mockingbird | Harper Lee
    Treasure Island | Robert Louis Stevenson
    Twenty Thousand Leagues Under the Seas | Jules Verne
    Ulysses | James Joyce
    Uncle Tom's Cabin | Harriet Beecher Stowe
    Waiting for Godot | Samuel Beckett
    War and Peace | Leo Tolstoy
    Winnie-the-Pooh | A. A. Milne
    Wuthering Heights | Emily Brontë
    """,
    "book",
    "author",
)

# kind | work | who made it.
WORKS = table(
    """
    painting | American Gothic | Grant Wood
    painting | Girl with a Pearl Earring | Johannes Vermeer
    painting | Guernica | Pablo Picasso
    painting | Las Meninas | Diego Velázquez
    painting | Les Demoiselles d'Avignon | Pablo Picasso
    painting | Liberty Leading the People | Eugène Delacroix
    painting | Luncheon of the Boating Party | Pierre-Auguste Renoir
    painting | Mona Lisa | Leonardo da Vinci
    painting | Nighthawks | Edward Hopper
    painting | Olympia | Édouard Manet
    painting | Primavera | Sandro Botticelli
    painting | Sunflowers | Vincent van Gogh
    painting | The Birth of Venus | Sandro Botticelli
    painting | The Garden of Earthly Delights | Hieronymus Bosch
    painting | The Hay Wain | John Constable
    painting | The Last Supper | Leonardo da Vinci
    painting | The Milkmaid | Johannes Vermeer
    painting | The Night Watch | Rembrandt
    painting | The Persistence of Memory | Salvador Dalí
    painting | The School of Athens | Raphael
    painting | The Scream | Edvard Munch
    painting | The Son of Man | René Magritte
    painting | The Starry Night | Vincent van Gogh
    painting | The Third of May 1808 | Francisco Goya
    painting | Wanderer above the Sea of Fog | Caspar David Friedrich
    painting | Whistler's Mother | James McNeill Whistler
    painting | Impression, Sunrise | Claude Monet
    painting | A Sunday Afternoon on the Island of La Grande Jatte | Georges Seurat
    painting | The Two Fridas | Frida Kahlo
    painting | The Card Players | Paul Cézanne
    sculpture | The Thinker | Auguste Rodin
    sculpture | Pietà | Michelangelo
    sculpture | Bird in Space | Constantin Brâncuși
    sculpture | The Little Mermaid in Copenhagen | Edvard Eriksen
    opera | Aida | Giuseppe Verdi
    opera | Carmen | Georges Bizet
    opera | Don Giovanni | Wolfgang Amadeus Mozart
    opera | Fidelio | Ludwig van Beethoven
    opera | La Traviata | Giuseppe Verdi
    opera | Madama Butterfly | Giacomo Puccini
    opera | Rigoletto | Giuseppe Verdi
    opera | Tannhäuser | Richard Wagner
    opera | The Barber of Seville | Gioachino Rossini
    opera | The Magic Flute | Wolfgang Amadeus Mozart
    opera | The Marriage of Figaro | Wolfgang Amadeus Mozart
    opera | Tosca | Giacomo Puccini
    opera | Tristan und Isolde | Richard Wagner
    opera | Turandot | Giacomo Puccini
    opera | Eugene Onegin | Pyotr Ilyich Tchaikovsky
    opera | Boris Godunov | Modest Mussorgsky
    opera | William Tell | Gioachino Rossini
    opera | Dido and Aeneas | Henry Purcell
    opera | Faust | Charles Gounod
    opera | Pagliacci | Ruggero Leoncavallo
    opera | Cavalleria rusticana | Pietro Mascagni
    opera | Norma | Vincenzo Bellini
    opera | Lucia di Lammermoor | Gaetano Donizetti
    opera | Salome | Richard Strauss
    opera | Peter Grimes | Benjamin Britten
    opera | Porgy and Bess | George Gershwin
    ballet music | Swan Lake | Pyotr Ilyich Tchaikovsky
    ballet music | The Nutcracker | Pyotr Ilyich Tchaikovsky
    ballet music | The Rite of Spring | Igor Stravinsky
    ballet music | The Firebird | Igor Stravinsky
    ballet music | Coppélia | Léo Delibes
    ballet music | Appalachian Spring | Aaron Copland
    ballet music | The Sleeping Beauty | Pyotr Ilyich Tchaikovsky
    musical work | Boléro | Maurice Ravel
    musical work | Messiah | George Frideric Handel
    musical work | Peter and the Wolf | Sergei Prokofiev
    musical work | Pictures at an Exhibition | Modest Mussorgsky
    musical work | Rhapsody in Blue | George Gershwin
    musical work | Scheherazade | Nikolai Rimsky-Korsakov
    musical work | Symphonie fantastique | Hector Berlioz
    musical work | The Art of Fugue | Johann Sebastian Bach
    musical work | The Blue Danube | Johann Strauss II
    musical work | The Brandenburg Concertos | Johann Sebastian Bach
    musical work | The Carnival of the Animals | Camille Saint-Saëns
    musical work | The Creation | Joseph Haydn
    musical work | The Four Seasons | Antonio Vivaldi
    musical work | The Moonlight Sonata | Ludwig van Beethoven
    musical work | The New World Symphony | Antonín Dvořák
    musical work | The Planets | Gustav Holst
    musical work | The Unfinished Symphony | Franz Schubert
    musical work | Water Music | George Frideric Handel
    musical work | Clair de lune | Claude Debussy
    musical work | La mer | Claude Debussy
    musical work | Finlandia | Jean Sibelius
    musical work | The Pomp and Circumstance Marches | Edward Elgar
    musical work | Gymnopédies | Erik Satie
    musical work | Canon in D | Johann Pachelbel
    musical work | Má vlast | Bedřich Smetana
    musical work | The Stars and Stripes Forever | John Philip Sousa
    musical work | A German Requiem | Johannes Brahms
    musical work | Adagio for Strings | Samuel Barber
    """,
    "kind",
    "work",
    "maker",
)

_ALSO_CALLED = {
    "Antoine de Saint-Exupéry": ["de Saint-Exupéry"],
    "Dante Alighieri": ["Dante"],
    "Daphne du Maurier": ["du Maurier"],
    "Fyodor Dostoevsky": ["Dostoyevsky", "Fyodor Dostoyevsky"],
    "Gabriel García Márquez": ["García Márquez"],
    "Johann Strauss II": ["Johann Strauss", "Strauss"],
    "Johann Wolfgang von Goethe": ["Johann Wolfgang Goethe"],
    "Leonardo da Vinci": ["Leonardo", "da Vinci"],
    "Miguel de Cervantes": ["Miguel de Cervantes Saavedra"],
    "Pyotr Ilyich Tchaikovsky": ["Pyotr Tchaikovsky", "Peter Tchaikovsky"],
    "Rembrandt": ["Rembrandt van Rijn"],
    "Michelangelo": ["Michelangelo Buonarroti"],
    "Sun Tzu": ["Sunzi"],
    "Vincent van Gogh": ["van Gogh"],
}
_LAST_PART_IS_NO_NAME = ("Sun Tzu", "Johann Strauss II")


def _names(person: str) -> list[str]:
    """A person's name as one answers: in full, the last part alone, other forms, without accents."""
    last = [] if person in _LAST_PART_IS_NO_NAME else [person.split()[-1]]
    names = [person, *last, *_ALSO_CALLED.get(person, [])]
    return list(dict.fromkeys([*names, *map(without_accents, names)]))


_AUTHORS = sorted({row["author"] for row in BOOKS})

add_task(
    "author_of_book",
    cluster=CLUSTER,
    source=facts([{"book": r["book"], "author": r["author"], "answers": _names(r["author"])} for r in BOOKS], "author"),
    templates=[
        'Who wrote "{book}"?',
        "Name the author of {book}.",
        "Title: {book}\nAuthor:",
        "Which writer is {book} by? Answer with the name only.",
        "{book} was written by",
        "A reader asks the librarian for the author of {book}. What does the librarian answer?",
        "Question: Who is the author of {book}?\nAnswer:",
    ],
    metrics=[exact_match],
)

add_task(
    "author_choice",
    cluster=CLUSTER,
    source=facts(
        [
            {
                "book": r["book"],
                "author": r["author"],
                "options": with_options(r["author"], _AUTHORS, 3, "author_choice", r["book"]),
                "answer": r["author"],
            }
            for r in BOOKS
        ],
        "author",
    ),
    templates=[
        "Which of these people wrote {book}?\n{options}",
        'Choose the author of "{book}": {options_inline}.',
        "Title: {book}\nPossible authors: {options_inline}\nAuthor:",
        "{options}\n\nOne of them wrote {book}. Who?",
        "Was {book} written by {options_inline}?",
    ],
    metrics=[exact_match],
)

add_task(
    "maker_of_work",
    cluster=CLUSTER,
    source=facts(
        [{"kind": r["kind"], "work": r["work"], "maker": r["maker"], "answers": _names(r["maker"])} for r in WORKS],
        "maker",
    ),
    templates=[
        'Who created the {kind} "{work}"?',
        "Name the artist or composer of the {kind} {work}.",
        "Work: {work} ({kind})\nBy:",
        "The {kind} {work} is by whom? Only the name, please.",
        "Which artist do we owe the {kind} {work} to?",
        "{work}, a famous {kind}, was made by",
    ],
    metrics=[exact_match],
)

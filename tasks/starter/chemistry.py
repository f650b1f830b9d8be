"""Cluster 'chemistry': the chemical elements. An element is in the same split in every task."""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match, sequence_accuracy
from tasks.starter.tables import facts, shuffled

CLUSTER = "chemistry"

# In the order of their atomic numbers, from 1 on.
_ELEMENTS = """
    hydrogen H, helium He, lithium Li, beryllium Be, boron B, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne,
    sodium Na, magnesium Mg, aluminium Al, silicon Si, phosphorus P, sulfur S, chlorine Cl, argon Ar, potassium K,
    calcium Ca, scandium Sc, titanium Ti, vanadium V, chromium Cr, manganese Mn, iron Fe, cobalt Co, nickel Ni,
    copper Cu, zinc Zn, gallium Ga, germanium Ge, arsenic As, selenium Se, bromine Br, krypton Kr, rubidium Rb,
    strontium Sr, yttrium Y, zirconium Zr, niobium Nb, molybdenum Mo, technetium Tc, ruthenium Ru, rhodium Rh,
    palladium Pd, silver Ag, cadmium Cd, indium In, tin Sn, antimony Sb, tellurium Te, iodine I, xenon Xe, caesium Cs,
    barium Ba, lanthanum La, cerium Ce, praseodymium Pr, neodymium Nd, promethium Pm, samarium Sm, europium Eu,
    gadolinium Gd, terbium Tb, dysprosium Dy, holmium Ho, erbium Er, thulium Tm, ytterbium Yb, lutetium Lu, hafnium Hf,
    tantalum Ta, tungsten W, rhenium Re, osmium Os, iridium Ir, platinum Pt, gold Au, mercury Hg, thallium Tl, lead Pb,
    bismuth Bi, polonium Po, astatine At, radon Rn, francium Fr, radium Ra, actinium Ac, thorium Th, protactinium Pa,
    uranium U, neptunium Np, plutonium Pu, americium Am, curium Cm, berkelium Bk, californium Cf, einsteinium Es,
    fermium Fm, mendelevium Md, nobelium No, lawrencium Lr, rutherfordium Rf, dubnium Db, seaborgium Sg, bohrium Bh,
    hassium Hs, meitnerium Mt, darmstadtium Ds, roentgenium Rg, copernicium Cn, nihonium Nh, flerovium Fl,
    moscovium Mc, livermorium Lv, tennessine Ts, oganesson Og
"""
ELEMENTS = [
    {"element": name, "symbol": symbol, "number": str(number)}
    for number, (name, symbol) in enumerate((e.split() for e in _ELEMENTS.split(",")), start=1)
]
_ALSO_SPELLED = {"aluminium": ["aluminum"], "caesium": ["cesium"], "sulfur": ["sulphur"]}


def _neighbours() -> list[dict[str, str | list[str]]]:
    """Questions about the heavier nucleus of two elements that are 3 to 20 places apart."""
    rows: list[dict[str, str | list[str]]] = []
    for i, element in enumerate(ELEMENTS):
        partners = [e["element"] for e in ELEMENTS[max(0, i - 20) : max(0, i - 2)]]
        if partners:
            lighter = shuffled(partners, "more_protons", element["element"])[0]
            options = shuffled([element["element"], lighter], "more_protons", i)
            rows.append({"options": options, "answer": element["element"]})
    return rows


add_task(
    "element_symbol",
    cluster=CLUSTER,
    source=facts([{"element": e["element"], "answer": e["symbol"]} for e in ELEMENTS], key="element"),
    templates=[
        "What is the chemical symbol of {element}?",
        "Give the symbol for the element {element}.",
        "Element: {element}\nSymbol:",
        "How is {element} abbreviated in the periodic table? Write the symbol only.",
        "Which letter or letters stand for {element} in a chemical formula?",
        "Symbol of {element}:",
        "A chemist wants to write {element} in a formula. What does she write?",
    ],
    metrics=[sequence_accuracy, exact_match],
)

add_task(
    "element_name",
    cluster=CLUSTER,
    source=facts(
        [
            {
                "element": e["element"],
                "symbol": e["symbol"],
                "answers": [e["element"], *_ALSO_SPELLED.get(e["element"], [])],
            }
            for e in ELEMENTS
        ],
        key="element",
    ),
    templates=[
        "Which chemical element has the symbol {symbol}?",
        "Name the element with the symbol {symbol}.",
        "Symbol: {symbol}\nElement:",
        "What does {symbol} stand for in the periodic table? One word.",
        "In chemistry, {symbol} is short for what?",
        "Tell me the name of the element written {symbol}. No explanation, please.",
    ],
    metrics=[exact_match],
)

add_task(
    "atomic_number",
    cluster=CLUSTER,
    source=facts([{"element": e["element"], "answer": e["number"]} for e in ELEMENTS], key="element"),
    templates=[
        "What is the atomic number of {element}?",
        "How many protons does an atom of {element} have? Answer with a number.",
        "Element: {element}\nAtomic number:",
        "Give the place of {element} in the periodic table as a number.",
        "Which atomic number does {element} have?",
        "Write the atomic number of {element} in digits.",
    ],
    metrics=[exact_match],
)

add_task(
    "more_protons",
    cluster=CLUSTER,
    source=facts(_neighbours(), key="answer"),
    templates=[
        "Which of these two elements has the higher atomic number?\n{options}",
        "Which element has more protons, {options_inline}?",
        "Elements: {options_inline}\nMore protons:",
        "{options}\n\nName the one whose atoms have more protons.",
        "Pick the element that comes later in the periodic table: {options_inline}",
        "Compare {options_inline}. Which has the larger number of protons in its nucleus?",
    ],
    metrics=[exact_match],
)

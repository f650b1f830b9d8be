"""Cluster 'geography': countries, their capitals, continents, currencies and languages.

One table holds all facts. A cell is empty where the fact is disputed, has changed lately, or has no
single answer (two capitals, two continents, no main language). A country is in the same split in
every task.
"""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import alternatives, facts, table, with_options

CLUSTER = "geography"

CONTINENTS = ["Africa", "Asia", "Europe", "North America", "South America", "Oceania"]

# country | capital | continent | currency | main language; ';' parts accepted answers.
COUNTRIES = table(
    """
    Afghanistan | Kabul | Asia | Afghan afghani |
    Albania | Tirana | Europe | Albanian lek | Albanian
    Algeria | Algiers | Africa | Algerian dinar | Arabic
    Angola | Luanda | Africa | Angolan kwanza | Portuguese
    Argentina | Buenos Aires | South America | Argentine peso | Spanish
    Armenia | Yerevan | | Armenian dram | Armenian
    Australia | Canberra | Oceania | Australian dollar | English
    Austria | Vienna | Europe | euro | German
    Azerbaijan | Baku | | Azerbaijani manat | Azerbaijani; Azeri
    Bahrain | Manama | Asia | Bahraini dinar | Arabic
    Bangladesh | Dhaka | Asia | Bangladeshi taka | Bengali; Bangla
    Belarus | Minsk | Europe | Belarusian ruble |
    Belgium | Brussels | Europe | euro |
    Bhutan | Thimphu | Asia | Bhutanese ngultrum |
    Bolivia | | South America | Bolivian boliviano | Spanish
    Bosnia and Herzegovina | Sarajevo | Europe | |
    Botswana | Gaborone | Africa | Botswana pula |
    Brazil | Brasília; Brasilia | South America | Brazilian real | Portuguese
    Bulgaria | Sofia | Europe | | Bulgarian
    Burkina Faso | Ouagadougou | Africa | West African CFA franc; CFA franc |
    Cambodia | Phnom Penh | Asia | Cambodian riel | Khmer
    Cameroon | Yaoundé; Yaounde | Africa | Central African CFA franc; CFA franc |
    Canada | Ottawa | North America | Canadian dollar | English
    Chad | N'Djamena | Africa | Central African CFA franc; CFA franc |
    Chile | Santiago | South America | Chilean peso | Spanish
    China | Beijing | Asia | renminbi; yuan; Chinese yuan | Chinese; Mandarin; Mandarin Chinese
    Colombia | Bogotá; Bogota | South America | Colombian peso | Spanish
    Costa Rica | San José; San Jose | North America | Costa Rican colón; Costa Rican colon; colón; colon | Spanish
    Croatia | Zagreb | Europe | euro | Croatian
    Cuba | Havana | North America | Cuban peso | Spanish
    Cyprus | Nicosia | | euro |
    the Czech Republic | Prague | Europe | Czech koruna; Czech crown | Czech
    Denmark | Copenhagen | Europe | Danish krone | Danish
    the Dominican Republic | Santo Domingo | North America | Dominican peso | Spanish
    Ecuador | Quito | South America | US dollar; United States dollar; American dollar | Spanish
    Egypt | Cairo | | Egyptian pound | Arabic
    El Salvador | San Salvador | North America | | Spanish
    Estonia | Tallinn | Europe | euro | Estonian
    Ethiopia | Addis Ababa | Africa | Ethiopian birr |
    Fiji | Suva | Oceania | Fijian dollar; Fiji dollar |
    Finland | Helsinki | Europe | euro | Finnish
    France | Paris | Europe | euro | French
    Gabon | Libreville | Africa | Central African CFA franc; CFA franc | French
    Georgia | Tbilisi | | Georgian lari | Georgian
    Germany | Berlin | Europe | euro | German
    Ghana | Accra | Africa | Ghanaian cedi; Ghana cedi |
    Greece | Athens | Europe | euro | Greek
    Guatemala | Guatemala City | North America | Guatemalan quetzal | Spanish
    Guyana | Georgetown | South America | Guyanese dollar |
    Haiti | Port-au-Prince | North America | Haitian gourde | Haitian Creole; Creole
    Honduras | Tegucigalpa | North America | Honduran lempira | Spanish
    Hungary | Budapest | Europe | Hungarian forint | Hungarian
    Iceland | Reykjavík; Reykjavik | Europe | Icelandic króna; Icelandic krona; króna; krona | Icelandic
    India | New Delhi; Delhi | Asia | Indian rupee |
    Indonesia | | | Indonesian rupiah | Indonesian; Bahasa Indonesia
    Iran | Tehran | Asia | Iranian rial | Persian; Farsi
    Iraq | Baghdad | Asia | Iraqi dinar | Arabic
    Ireland | Dublin | Europe | euro | English
    Italy | Rome | Europe | euro | Italian
    Jamaica | Kingston | North America | Jamaican dollar |
    Japan | Tokyo | Asia | Japanese yen | Japanese
    Jordan | Amman | Asia | Jordanian dinar | Arabic
    Kazakhstan | Astana | | Kazakhstani tenge; Kazakh tenge |
    Kenya | Nairobi | Africa | Kenyan shilling |
    Kuwait | Kuwait City | Asia | Kuwaiti dinar | Arabic
    Kyrgyzstan | Bishkek | Asia | Kyrgyzstani som; Kyrgyz som |
    Laos | Vientiane | Asia | Lao kip; Laotian kip | Lao; Laotian
    Latvia | Riga | Europe | euro | Latvian
    Lebanon | Beirut | Asia | Lebanese pound; Lebanese lira | Arabic
    Libya | Tripoli | Africa | Libyan dinar | Arabic
    Lithuania | Vilnius | Europe | euro | Lithuanian
    Madagascar | Antananarivo | Africa | Malagasy ariary | Malagasy
    Malaysia | Kuala Lumpur | Asia | Malaysian ringgit | Malay; Malaysian
    Mali | Bamako | Africa | West African CFA franc; CFA franc |
    Malta | Valletta | Europe | euro | Maltese
    Mexico | Mexico City | North America | Mexican peso | Spanish
    Moldova | Chișinău; Chisinau | Europe | Moldovan leu | Romanian; Moldovan
    Mongolia | Ulaanbaatar; Ulan Bator | Asia | Mongolian tögrög; Mongolian tugrik; tögrög; tugrik | Mongolian
    Morocco | Rabat | Africa | Moroccan dirham | Arabic
    Mozambique | Maputo | Africa | Mozambican metical |
    Myanmar | Naypyidaw; Nay Pyi Taw | Asia | Burmese kyat; Myanmar kyat | Burmese
    Namibia | Windhoek | Africa | Namibian dollar; Namibia dollar |
    Nepal | Kathmandu | Asia | Nepalese rupee; Nepali rupee | Nepali
    the Netherlands | Amsterdam | Europe | euro | Dutch
    New Zealand | Wellington | Oceania | New Zealand dollar | English
    Nicaragua | Managua | North America | Nicaraguan córdoba; Nicaraguan cordoba; córdoba; cordoba | Spanish
    Nigeria | Abuja | Africa | Nigerian naira |
    North Korea | Pyongyang | Asia | North Korean won | Korean
    North Macedonia | Skopje | Europe | Macedonian denar | Macedonian
    Norway | Oslo | Europe | Norwegian krone | Norwegian
    Oman | Muscat | Asia | Omani rial | Arabic
    Pakistan | Islamabad | Asia | Pakistani rupee |
    Papua New Guinea | Port Moresby | Oceania | Papua New Guinean kina |
    Paraguay | Asunción; Asuncion | South America | Paraguayan guaraní; Paraguayan guarani; guaraní; guarani |
    Peru | Lima | South America | Peruvian sol | Spanish
    the Philippines | Manila | Asia | Philippine peso | Filipino; Tagalog
    Poland | Warsaw | Europe | Polish złoty; Polish zloty; złoty; zloty | Polish
    Portugal | Lisbon | Europe | euro | Portuguese
    Qatar | Doha | Asia | Qatari riyal; Qatari rial; rial |
    Romania | Bucharest | Europe | Romanian leu | Romanian
    Russia | Moscow | | Russian ruble | Russian
    Rwanda | Kigali | Africa | Rwandan franc | Kinyarwanda
    Saudi Arabia | Riyadh | Asia | Saudi riyal; Saudi rial; rial | Arabic
    Senegal | Dakar | Africa | West African CFA franc; CFA franc |
    Serbia | Belgrade | Europe | Serbian dinar | Serbian
    Slovakia | Bratislava | Europe | euro | Slovak
    Slovenia | Ljubljana | Europe | euro | Slovenian; Slovene
    Somalia | Mogadishu | Africa | Somali shilling | Somali
    South Africa | | Africa | South African rand |
    South Korea | Seoul | Asia | South Korean won; Korean won | Korean
    Spain | Madrid | Europe | euro | Spanish
    Sri Lanka | | Asia | Sri Lankan rupee |
    Sudan | Khartoum | Africa | Sudanese pound | Arabic
    Suriname | Paramaribo | South America | Surinamese dollar | Dutch
    Sweden | Stockholm | Europe | Swedish krona; Swedish crown | Swedish
    Switzerland | Bern; Berne | Europe | Swiss franc | German; Swiss German
    Syria | Damascus | Asia | Syrian pound | Arabic
    Tajikistan | Dushanbe | Asia | Tajikistani somoni | Tajik
    Tanzania | Dodoma | Africa | Tanzanian shilling | Swahili; Kiswahili
    Thailand | Bangkok | Asia | Thai baht | Thai
    Tunisia | Tunis | Africa | Tunisian dinar | Arabic
    Turkey | Ankara | | Turkish lira | Turkish
    Turkmenistan | Ashgabat | Asia | Turkmenistani manat; Turkmen manat | Turkmen
    Uganda | Kampala | Africa | Ugandan shilling |
    Ukraine | Kyiv; Kiev | Europe | Ukrainian hryvnia | Ukrainian
    the United Arab Emirates | Abu Dhabi | Asia | UAE dirham; Emirati dirham; United Arab Emirates dirham |
    the United Kingdom | London | Europe | pound sterling; British pound; pound | English
    the United States | Washington, D.C.; Washington; Washington DC | North America | US dollar | English
    Uruguay | Montevideo | South America | Uruguayan peso | Spanish
    Uzbekistan | Tashkent | Asia | Uzbekistani som; Uzbek som; Uzbekistani sum; Uzbek sum; sum | Uzbek
    Venezuela | Caracas | South America | Venezuelan bolívar; Venezuelan bolivar; bolívar; bolivar | Spanish
    Vietnam | Hanoi | Asia | Vietnamese dong; Vietnamese đồng; đồng | Vietnamese
    Yemen | Sanaa; Sana'a | Asia | Yemeni rial; Yemeni riyal; riyal | Arabic
    Zambia | Lusaka | Africa | Zambian kwacha |
    Zimbabwe | Harare | Africa | |
    """,
    "country",
    "capital",
    "continent",
    "currency",
    "language",
)

_ALSO_CALLED = {
    "the Czech Republic": ["Czechia"],
    "Myanmar": ["Burma"],
    "Turkey": ["Türkiye"],
    "the United Arab Emirates": ["UAE"],
    "the United Kingdom": ["UK", "Great Britain", "Britain", "England"],
    "the United States": ["United States of America", "US", "USA", "America"],
}


def _with(column: str) -> list[dict[str, str]]:
    return [row for row in COUNTRIES if row[column]]


def _currencies(cell: str) -> list[str]:
    """The accepted names, and the unit alone: 'Mexican peso' is also 'peso'."""
    names = alternatives(cell)
    return list(dict.fromkeys([*names, names[0].split()[-1]]))


_capitals = [alternatives(row["capital"])[0] for row in _with("capital")]

add_task(
    "capital_of_country",
    cluster=CLUSTER,
    source=facts(
        [{"country": r["country"], "answers": alternatives(r["capital"])} for r in _with("capital")],
        key="country",
    ),
    templates=[
        "What is the capital of {country}?",
        "Name the capital city of {country}.",
        "Tell me the capital of {country}. Answer with the name of the city only.",
        "Country: {country}\nCapital:",
        "Give me the capital of {country}, nothing else.",
        "Question: Which city is the capital of {country}?\nAnswer:",
        "I am preparing a geography quiz. The capital of {country} is which city?",
        "{country} - capital?",
    ],
    metrics=[exact_match],
)

add_task(
    "country_of_capital",
    cluster=CLUSTER,
    source=facts(
        [
            {
                "capital": alternatives(r["capital"])[0],
                "country": r["country"],
                "answers": [r["country"], *_ALSO_CALLED.get(r["country"], [])],
            }
            for r in _with("capital")
        ],
        key="country",
    ),
    templates=[
        "{capital} is the capital of which country?",
        "Which country has {capital} as its capital?",
        "Name the country whose capital is {capital}. Reply with the country only.",
        "Capital: {capital}\nCountry:",
        "Of what country is {capital} the capital city?",
        "A letter is sent to the government in {capital}. In which country does it arrive?",
        "Q: {capital} is a capital. Of which country?\nA:",
    ],
    metrics=[exact_match],
)

add_task(
    "capital_choice",
    cluster=CLUSTER,
    source=facts(
        [
            {
                "country": r["country"],
                "options": with_options(capital, _capitals, 3, "capital_choice", r["country"]),
                "answer": capital,
            }
            for r, capital in zip(_with("capital"), _capitals, strict=True)
        ],
        key="country",
    ),
    templates=[
        "Which of these cities is the capital of {country}?\n{options}",
        "Pick the capital of {country}: {options_inline}.",
        "Choose the right answer.\nThe capital of {country} is:\n{options}",
        "{options}\n\nOne of the cities above is the capital of {country}. Which one?",
        "Question: What is the capital of {country}?\nOptions: {options_inline}\nAnswer:",
        "Is the capital of {country} {options_inline}? Write the name of the city.",
    ],
    metrics=[exact_match],
)

add_task(
    "continent_of_country",
    cluster=CLUSTER,
    source=facts(
        [{"country": r["country"], "options": CONTINENTS, "answer": r["continent"]} for r in _with("continent")],
        key="country",
    ),
    templates=[
        "On which continent is {country}?\n{options}",
        "Which continent does {country} belong to? Choose from {options_inline}.",
        "Country: {country}\nContinents: {options_inline}\nContinent:",
        "Select the continent where {country} is found.\n\n{options}",
        "Put {country} on the right continent. The choices are:\n{options}",
        "{country} lies in one of these parts of the world: {options_inline}. Which is it?",
        "What continent is {country} in? Just name the continent.",
    ],
    metrics=[exact_match],
)

add_task(
    "currency_of_country",
    cluster=CLUSTER,
    source=facts(
        [{"country": r["country"], "answers": _currencies(r["currency"])} for r in _with("currency")],
        key="country",
    ),
    templates=[
        "What is the currency of {country}?",
        "Which money do people use in {country}? Give the name of the currency.",
        "Country: {country}\nCurrency:",
        "I am travelling to {country}. What currency do I need? Be brief.",
        "Name the official currency of {country}.",
        "Which currency is legal tender in {country}?",
        "Currency used in {country} (name only):",
    ],
    metrics=[exact_match],
)

add_task(
    "language_of_country",
    cluster=CLUSTER,
    source=facts(
        [{"country": r["country"], "answers": alternatives(r["language"])} for r in _with("language")],
        key="country",
    ),
    templates=[
        "What is the main language of {country}?",
        "Which language do most people in {country} speak?",
        "Country: {country}\nMain language:",
        "I want to talk to people in {country}. Which language should I learn? One word is enough.",
        "Name the most widely spoken language in {country}.",
        "Two neighbours meet in {country}. In which language do they most likely talk?",
        "Main language of {country}?",
    ],
    metrics=[exact_match],
)

"""Terms of the exact verifier: how a text becomes words, and which words mean the same.

A line of `SYNONYMS` holds groups between ";": every phrase of a group (between "|") may stand for every other. One may
be in several: ground truth "MS" accepts any expansion, "mitral stenosis" accepts "MS" but not "multiple sclerosis".
"""

# ruff: noqa: SIM905 (a table reads better as words than as a list of quoted words)

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

SYNONYMS = """
MI | myocardial infarction | heart attack ; AMI | acute myocardial infarction
STEMI | ST elevation myocardial infarction | ST segment elevation myocardial infarction
NSTEMI | non ST elevation myocardial infarction | non ST segment elevation myocardial infarction
ACS | acute coronary syndrome
CAD | coronary artery disease | coronary heart disease | CHD | ischemic heart disease | IHD
CHF | congestive heart failure | congestive cardiac failure ; HF | heart failure | cardiac failure
AF | AFib | atrial fibrillation ; VF | VFib | ventricular fibrillation ; VT | VTach | ventricular tachycardia
SVT | supraventricular tachycardia ; WPW | Wolff Parkinson White ; DVT | deep vein thrombosis | deep venous thrombosis
PE | pulmonary embolism | pulmonary thromboembolism | pulmonary embolus ; VTE | venous thromboembolism
PAD | peripheral artery disease | peripheral arterial disease ; AAA | abdominal aortic aneurysm ; AS | aortic stenosis
AR | aortic regurgitation | aortic insufficiency ; MR | mitral regurgitation | mitral insufficiency
MS | mitral stenosis ; MS | multiple sclerosis ; MS | morphine sulfate ; ASD | atrial septal defect
VSD | ventricular septal defect ; RCA | right coronary artery
HOCM | HCM | hypertrophic cardiomyopathy | hypertrophic obstructive cardiomyopathy ; LVH | left ventricular hypertrophy
AV | atrioventricular ; AV | arteriovenous ; HTN | hypertension | high blood pressure
CVA | cerebrovascular accident | stroke ; TIA | transient ischemic attack ; SAH | subarachnoid hemorrhage
ALS | amyotrophic lateral sclerosis | Lou Gehrig disease ; GBS | Guillain Barre syndrome
GBS | group B streptococcus | streptococcus agalactiae ; MG | myasthenia gravis ; AD | Alzheimer disease
AD | autosomal dominant ; AR | autosomal recessive ; PD | Parkinson disease
HD | Huntington disease | Huntington chorea ; COPD | chronic obstructive pulmonary disease
ARDS | acute respiratory distress syndrome ; OSA | obstructive sleep apnea ; CF | cystic fibrosis ; TB | tuberculosis
PCP | pneumocystis pneumonia | pneumocystis jirovecii pneumonia ; RSV | respiratory syncytial virus
HIV | human immunodeficiency virus ; AIDS | acquired immunodeficiency syndrome | acquired immune deficiency syndrome
EBV | Epstein Barr virus ; CMV | cytomegalovirus ; HSV | herpes simplex virus | herpes simplex
VZV | varicella zoster virus | varicella zoster ; HPV | human papillomavirus | human papilloma virus
HBV | hepatitis B virus ; HCV | hepatitis C virus ; MRSA | methicillin resistant staphylococcus aureus
STI | STD | sexually transmitted infection | sexually transmitted disease ; UTI | urinary tract infection
PID | pelvic inflammatory disease ; AKI | acute kidney injury | acute renal failure | ARF | acute kidney failure
ARF | acute rheumatic fever ; CKD | chronic kidney disease ; ESRD | end stage renal disease
ATN | acute tubular necrosis
PSGN | post streptococcal glomerulonephritis | acute post streptococcal glomerulonephritis
FSGS | focal segmental glomerulosclerosis
MCD | minimal change disease | minimal change nephropathy | lipoid nephrosis
BPH | benign prostatic hyperplasia | benign prostatic hypertrophy ; RCC | renal cell carcinoma
HUS | hemolytic uremic syndrome ; TTP | thrombotic thrombocytopenic purpura
ITP | immune thrombocytopenic purpura | idiopathic thrombocytopenic purpura | immune thrombocytopenia
DIC | disseminated intravascular coagulation ; HIT | heparin induced thrombocytopenia ; vWD | von Willebrand disease
vWF | von Willebrand factor ; ALL | acute lymphoblastic leukemia | acute lymphocytic leukemia
AML | acute myeloid leukemia | acute myelogenous leukemia
CML | chronic myeloid leukemia | chronic myelogenous leukemia ; CLL | chronic lymphocytic leukemia
APL | APML | acute promyelocytic leukemia ; MM | multiple myeloma ; NHL | non Hodgkin lymphoma
HL | Hodgkin lymphoma | Hodgkin disease ; IDA | iron deficiency anemia ; G6PD | glucose 6 phosphate dehydrogenase
SCD | sickle cell disease ; SLE | systemic lupus erythematosus ; RA | rheumatoid arthritis ; OA | osteoarthritis
GCA | giant cell arteritis | temporal arteritis ; PMR | polymyalgia rheumatica ; PAN | polyarteritis nodosa
GPA | granulomatosis with polyangiitis | Wegener granulomatosis
EGPA | eosinophilic granulomatosis with polyangiitis | Churg Strauss syndrome
HSP | Henoch Schonlein purpura | IgA vasculitis
GERD | GORD | gastroesophageal reflux disease | gastroesophageal reflux ; PUD | peptic ulcer disease
IBD | inflammatory bowel disease ; IBS | irritable bowel syndrome ; UC | ulcerative colitis
PBC | primary biliary cholangitis | primary biliary cirrhosis ; PSC | primary sclerosing cholangitis
HCC | hepatocellular carcinoma | hepatoma ; GIST | gastrointestinal stromal tumor
ERCP | endoscopic retrograde cholangiopancreatography ; DM | diabetes mellitus | diabetes
T1DM | type 1 diabetes | type 1 diabetes mellitus ; T2DM | type 2 diabetes | type 2 diabetes mellitus
DKA | diabetic ketoacidosis ; DI | diabetes insipidus
SIADH | syndrome of inappropriate antidiuretic hormone | syndrome of inappropriate ADH secretion
PCOS | polycystic ovary syndrome | polycystic ovarian syndrome ; MEN | multiple endocrine neoplasia
ADH | antidiuretic hormone | vasopressin | arginine vasopressin ; PTH | parathyroid hormone | parathormone
TSH | thyroid stimulating hormone | thyrotropin ; ACTH | adrenocorticotropic hormone | corticotropin
LH | luteinizing hormone ; FSH | follicle stimulating hormone ; GH | growth hormone | somatotropin
hCG | human chorionic gonadotropin ; EPO | erythropoietin ; AFP | alpha fetoprotein ; PSA | prostate specific antigen
CRP | C reactive protein ; HbA1c | hemoglobin A1c | glycated hemoglobin | glycosylated hemoglobin
INR | international normalized ratio ; PT | prothrombin time
PTT | aPTT | partial thromboplastin time | activated partial thromboplastin time ; GFR | glomerular filtration rate
ANA | antinuclear antibody ; Ab | antibody ; IgA | immunoglobulin A ; IgE | immunoglobulin E ; IgG | immunoglobulin G
IgM | immunoglobulin M ; GABA | gamma aminobutyric acid ; ACE | angiotensin converting enzyme
ACEI | ACE inhibitor | angiotensin converting enzyme inhibitor
ARB | angiotensin receptor blocker | angiotensin 2 receptor blocker
NSAID | nonsteroidal anti inflammatory drug | non steroidal anti inflammatory drug ; PPI | proton pump inhibitor
SSRI | selective serotonin reuptake inhibitor ; TCA | tricyclic antidepressant
NAC | N acetylcysteine | acetylcysteine ; COX | cyclooxygenase ; IL | interleukin ; TNF | tumor necrosis factor
NO | nitric oxide ; CO | carbon monoxide ; CO2 | carbon dioxide ; NMS | neuroleptic malignant syndrome
PTSD | post traumatic stress disorder ; ADHD | attention deficit hyperactivity disorder
BPPV | benign paroxysmal positional vertigo ; RBC | red blood cell | erythrocyte | red cell
WBC | white blood cell | leukocyte | white cell ; CSF | cerebrospinal fluid ; CNS | central nervous system
CSF | colony stimulating factor ; CT | computed tomography | CT scan | computerized tomography | CAT scan
MRI | magnetic resonance imaging | MRI scan ; PET | positron emission tomography | PET scan
ECG | EKG | electrocardiogram | electrocardiography ; EEG | electroencephalogram | electroencephalography
US | ultrasound | ultrasonography | sonography ; LP | lumbar puncture | spinal tap
FNAC | fine needle aspiration cytology ; PCR | polymerase chain reaction ; IUD | intrauterine device
CABG | coronary artery bypass graft | coronary artery bypass grafting ; SCC | squamous cell carcinoma
SCLC | small cell lung cancer | small cell lung carcinoma | small cell carcinoma of lung ; 缺铁性贫血 | IDA
NSCLC | non small cell lung cancer | non small cell lung carcinoma
SJS | Stevens Johnson syndrome ; TEN | toxic epidermal necrolysis ; PKU | phenylketonuria ; epinephrine | adrenaline
norepinephrine | noradrenaline ; acetaminophen | paracetamol ; albuterol | salbutamol ; rifampin | rifampicin
lidocaine | lignocaine ; furosemide | frusemide ; meperidine | pethidine ; aspirin | acetylsalicylic acid | ASA
nitroglycerin | glyceryl trinitrate | GTN ; deferoxamine | desferrioxamine ; leucovorin | folinic acid
vitamin B1 | thiamine | thiamin ; vitamin B2 | riboflavin ; vitamin B3 | niacin | nicotinic acid
vitamin B6 | pyridoxine ; vitamin B9 | folic acid | folate ; vitamin B12 | cobalamin | cyanocobalamin
vitamin C | ascorbic acid | ascorbate ; vitamin A | retinol
Clostridioides difficile | Clostridium difficile | C difficile | C diff ; Escherichia coli | E coli
Helicobacter pylori | H pylori ; Staphylococcus aureus | S aureus | staph aureus
Streptococcus pneumoniae | S pneumoniae | pneumococcus ; Neisseria meningitidis | N meningitidis | meningococcus
Neisseria gonorrhoeae | N gonorrhoeae | gonococcus ; ectopic pregnancy | tubal pregnancy | extrauterine pregnancy
kidney stone | nephrolithiasis | renal stone | renal calculus ; chickenpox | varicella ; shingles | herpes zoster
whooping cough | pertussis ; German measles | rubella ; measles | rubeola
celiac disease | celiac sprue | gluten sensitive enteropathy | gluten enteropathy ; elevated | increased | raised
decreased | reduced | lowered ; primary aldosteronism | Conn syndrome | primary hyperaldosteronism
Addison disease | primary adrenal insufficiency ; 心肌梗死 | 心肌梗塞 | 心梗 ; 脑梗死 | 脑梗塞 | 脑梗
异位妊娠 | 宫外孕 ; 乙型肝炎 | 乙肝 ; 丙型肝炎 | 丙肝 ; 甲状腺功能亢进 | 甲状腺功能亢进症 | 甲亢
甲状腺功能减退 | 甲状腺功能减退症 | 甲减 ; 高钾血症 | 高血钾 ; 低钾血症 | 低血钾 ; IM | intramuscular ; IV | intravenous
慢性阻塞性肺疾病 | 慢阻肺 | COPD ; 系统性红斑狼疮 | SLE ; 深静脉血栓 | DVT ; 艾滋病 | 获得性免疫缺陷综合征 | AIDS
阿司匹林 | 乙酰水杨酸 ; 对乙酰氨基酚 | 扑热息痛 ; 磁共振成像 | 核磁共振 | 磁共振 | MRI ; platelet | thrombocyte
"""

# Abbreviations that are also English words (or titles): read as abbreviations only where written in capitals.
WORDLIKE = frozenset("ALL AS AIDS MS PAD AD HIT US PAN PET MEN CAP GIST TEN NO SA LAD NS PD CO MM".split())

# Words after which a lone "a" is a name (vitamin A), not the article, and a full stop ends the sentence.
LETTER_HEADS = frozenset("vitamin hepatitis type group hemophilia immunoglobulin influenza protein option factor class "
                         "coenzyme apolipoprotein amyloid phase toxin hemoglobin cyclin serum".split())
ROMAN_HEADS = frozenset("type grade stage class factor phase group nerve cn angiotensin level mucopolysaccharidosis "
                        "lead zone division part 子 型".split())
ROMAN = {"ii": "2", "iii": "3", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12", "xiii": "13"}
ROMAN_AFTER_HEAD = {"i": "1", "iv": "4", "v": "5", "x": "10"}
CHINESE_CLASSES = frozenset([*"型期级度类天日月年岁次片支", "week", "hour", "minute", "day"])
CHINESE_DIGITS = dict(zip("一二两三四五六七八九", "1223456789", strict=True))

NUMBER_WORDS = {word: number for number, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split())} | {word: 10 * tens for tens, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ORDINALS = {word: f"{n}th" for n, word in enumerate(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), 1)}

# Units of one dimension, as multiples of its first; "h" and "l" are read only after a number.
UNITS = [{"mcg": "1", "mg": "1000", "g": "1000000", "kg": "1000000000"}, {"ml": "1", "dl": "100", "l": "1000"},
         {"nm": "0.000001", "um": "0.001", "mm": "1", "cm": "10", "meter": "1000", "km": "1000000"},
         {"sec": "1", "minute": "60", "hour": "3600", "day": "86400", "week": "604800"}, {"month": "1", "year": "12"}]
UNIT_NAMES = {"microgram": "mcg", "ug": "mcg", "milligram": "mg", "gram": "g", "kilogram": "kg", "kilo": "kg",
              "milliliter": "ml", "cc": "ml", "liter": "l", "deciliter": "dl", "millimeter": "mm", "centimeter": "cm",
              "micrometer": "um", "micron": "um", "nanometer": "nm", "kilometer": "km", "min": "minute", "hr": "hour",
              "yr": "year", "wk": "week", "pct": "percent"}

PLURALS = dict(pair.split(":") for pair in (
    "alveoli:alveolus bronchi:bronchus nuclei:nucleus bacteria:bacterium mitochondria:mitochondrion fungi:fungus "
    "metastases:metastasis diagnoses:diagnosis stenoses:stenosis thromboses:thrombosis crises:crisis viruses:virus "
    "ova:ovum thrombi:thrombus emboli:embolus calculi:calculus ganglia:ganglion women:woman children:child feet:foot "
    "teeth:tooth spermatozoa:spermatozoon cocci:coccus bacilli:bacillus cortices:cortex").split())

PREFIXES = ("pre", "post", "anti", "non", "intra", "inter", "sub", "micro", "macro", "multi", "neo", "para", "peri")
YES = frozenset("yes true 是 对 正确 是的 能 能够 可以 会".split())
NO = frozenset("no NO false 否 不是 不 错 错误 不对 没有 不能 不可以 不会".split())

# Words of a parenthesis that narrows the answer and is no name of its own: "Queen (band)", "pain (severe)".
QUALIFIERS = frozenset("""disambiguation band film song album book novel series tv character actor singer city state
country game company title person name term general acute chronic severe mild moderate early late left right bilateral
unilateral oral iv im sc intravenous primary secondary type stage grade most common usually often rare only positive
negative normal abnormal in of on with for by at to from without during after before due male female adult child drug
disease syndrome e g i eg ie such as and or high low dose daily once twice 1th 2th line treatment plural""".split())

HARD, SOFT = frozenset(".?•"), frozenset(",:、")
_CJK = "\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK_CHARACTER = re.compile(f"([{_CJK}])")
_TOKEN = re.compile(r"\d+(?:st|nd|rd|th)\b|\d+(?:\.\d+)?|[^\W\d_]+|[.!?。;,:()\[\]|/、•\n]", re.IGNORECASE)
_CHARACTERS = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-", "−": "-", "ø": "o", "Ø": "O", "ł": "l",
                             "Ł": "L", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ı": "i", "·": " ", "µ": "μ"})
_REWRITES = [(re.compile(pattern, re.IGNORECASE), new) for pattern, new in (
    (r"(?<=[^\n]{60})\n(?-i:(?=[a-z]))", " "),  # a long line that goes on in small letters is hard wrapping
    (r"(?m)^[ \t]*(?:[-*•●▪]|\(?[a-z]\))[ \t]+", " • "),  # a list item; a numbered one keeps its number, as an answer
    (r"(?m)^[ \t]*\(?(\d{1,2})(?:[.)][ \t]+|、)", r" • \1 "),  # may be "46. So many are ..."
    (r"(?<!\S)\(?(?:[a-h]|\d)\)[ \t]+", " • "),  # and one inside a line: "a) x b) y"
    (r"\bcan'?t\b|\bcannot\b", "can not"), (r"\bwon't\b", "will not"), (r"n't\b", " not"), (r"'s\b", ""),
    (r"(?<=\d),(?=\d{3}(?!\d))", ""), (r"\b(o|a|b|ab|rh) ?\+(?!\w)", r"\1 positive"),
    (r"\b(o|ab|rh) ?-(?![\w-])", r"\1 negative"), (r"(?<=\d)\s*[-–~]\s*(?=\d)", " to "),
    (r"\s-+\s|[—–]|--+", " , "), (r"(?<![\w)\]-])-(?=\d)", " minus "), (r"%|\bper cent\b", " percent "), ("&", " and "),
    ("°", " degree "), ("≥", " at least "), ("≤", " at most "), (r">(?=\s*\d)", " greater than "),
    (r"<(?=\s*\d)", " less than "), (r"\bmm Hg\b", "mmHg"), ("[*_#]+", " "), (r"\band/or\b", "or"),
    (r"(?<=[a-z]{5})(?<!interleukin)(?<!caspase)(?<!claudin)\d{1,3}(?=\.\s|\.?$)", ""),  # a citation's: "Garfield1"
    (r"(?<=\bin )((?:1[5-9]|20)\d\d)[1-9](?=\.\s|\.?$)", r"\1"),  # and after a year: "in 19661"
    ("毫克", " mg "), ("微克", " mcg "), ("毫升", " ml "), ("小时", " hour "), ("分钟", " minute "),
    (r"(?<=[\d一二两三四五六七八九])个?(?:周|星期)", " week "), (r"(?<=\d)\s*[天日](?!\w)", " day "))]


class Token(NamedTuple):
    """A folded word, number, Chinese character or mark; `glued` where nothing parts it from the token before."""

    text: str
    glued: bool


def tokenise(text: str) -> list[Token]:
    """Turn a text into folded tokens; the marks among them are those of `HARD` and `SOFT`."""
    text = fold_characters(text)
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    if not text.isascii():
        text = _CJK_CHARACTER.sub(r" \1 ", text)
    return _fold_numbers(_raw_tokens(text))


def normalise(text: str) -> str:
    """Return the folded words of a text, without its marks, parted by single spaces."""
    return " ".join(token.text for token in tokenise(text) if token.text not in HARD | SOFT)


def fold_characters(text: str) -> str:
    """Fold width, compatibility forms, accents and Greek letters; case and spacing stay."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text.translate(_CHARACTERS))
    text = "".join(c for c in text if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS).replace("综合症", "综合征")
    text = re.sub(r"μ(?=[glm]\b)", "u", text)
    return re.sub("[Α-Ωα-ω]", lambda m: f" {unicodedata.name(m[0], 'x').split()[-1].lower()} ", text)


@lru_cache(maxsize=65536)
def fold_word(word: str) -> str:
    """Fold one word's case, British spelling, plural and unit name: "Tumours" and "tumor" are one."""
    word = PLURALS.get(word.casefold(), word.casefold())
    if len(word) >= 5:
        word = re.sub("ae$", "a", word).replace("oe", "e").replace("ae", "e").replace("sulph", "sulf")
        word = re.sub("^leuco", "leuko", re.sub("(?<=[lmvdbpi])our", "or", word))
        word = re.sub("(cen|fib|lit|met|tit)re(s?)$", r"\1er\2", word)
        word = re.sub("is(e[ds]?|ing|ation)$", r"iz\1", re.sub("lys(e[ds]?|ing)$", r"lyz\1", word))
    if len(word) >= 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if word.endswith(("sses", "xes", "ches", "shes")):
            word = word[:-2]
        else:
            word = word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
    return ORDINALS.get(word, UNIT_NAMES.get(word, word))


def _raw_tokens(text: str) -> list[Token]:
    """Cut a rewritten text into tokens, deciding for each "." whether it is a stop and for each "a" what it is."""
    capitals = not any(c.islower() for c in text) and len(text.split()) > 3
    matches = list(_TOKEN.finditer(text))
    tokens: list[Token] = []
    for number, match in enumerate(matches):
        raw, last = match[0], tokens[-1].text if tokens else "."
        following = matches[number + 1][0] if number + 1 < len(matches) else ""
        if not raw[0].isalnum():
            if mark := _mark(raw, text, match.end(), [token.text for token in tokens[-2:]]):
                tokens.append(Token(mark, False))
            continue
        named = (not following.isalpha() or following.lower() in ("positive", "negative") or last in LETTER_HEADS
                 or (raw == "A" and not capitals and last not in HARD | SOFT))  # "a" as a name: vitamin A, A negative
        if following and (raw.lower() in ("the", "an") or (raw in ("a", "A") and not named)):
            continue
        previous = matches[number - 1] if number else None
        between = text[previous.end(): match.start()] if previous else " "
        glued = previous is not None and ((not between and previous[0].isalnum()) or (
            between == "-" and raw[0].isdigit() and previous[0].isalpha())) and not _CJK_CHARACTER.match(last)
        word = format_number(raw) if raw[0].isdigit() else fold_word(raw)
        tokens.append(Token(raw if raw in WORDLIKE and not capitals and not glued else word, glued))
    return tokens


def _mark(raw: str, text: str, end: int, last: list[str]) -> str:
    """Return the mark that a punctuation character stands for; "" for none, as inside "e.g." or after an initial."""
    if raw in "?•、:":
        return raw
    if raw in "\n!;。":
        return "."
    if raw != ".":
        return ","
    word = last[-1] if last else "."
    initial = len(word) == 1 and word.isascii() and word.isalpha() and (len(last) < 2 or last[0] not in LETTER_HEADS)
    if word in ("dr", "st", "mr", "mrs", "vs", "eg", "ie") or (initial and text[end:].strip()):
        return ""
    return "" if end < len(text) and not (text[end].isspace() or text[end] in "\"')”") else "."


def format_number(raw: str) -> str:
    """Write a number without idle zeros ("0.50" is "0.5"), an ordinal as digits and "th"."""
    digits = raw.lower().rstrip("stndrh")
    ordinal = "th" if digits != raw.lower() else ""
    digits = digits.lstrip("0") or "0"
    digits = "0" + digits if digits[0] == "." else digits
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + ordinal


def _fold_numbers(tokens: list[Token]) -> list[Token]:
    """Turn number words, Roman and Chinese numerals into digits: "type II" and "type 2", "forty-six" and "46"."""
    out: list[Token] = []
    position = 0
    while position < len(tokens):
        text, glued = tokens[position]
        last = out[-1].text if out else ""
        following = tokens[position + 1].text if position + 1 < len(tokens) else ""
        if text in NUMBER_WORDS or (following in MULTIPLIERS and text.isdecimal() and len(text) < 16):
            value, position = _read_number_words(tokens, position)
            out.append(Token(str(value), glued))
            continue
        if text in ROMAN_AFTER_HEAD and (last in ROMAN_HEADS or following in CHINESE_CLASSES):
            text = ROMAN_AFTER_HEAD[text]
        elif text in CHINESE_DIGITS and following in CHINESE_CLASSES:
            text = CHINESE_DIGITS[text]
        elif text in ("2th", "h", "m") and last[:1].isdigit():
            text = {"2th": "sec", "h": "hour", "m": "meter"}[text]
        out.append(Token(ROMAN.get(text, text), glued))
        position += 1
    return out


def _read_number_words(tokens: list[Token], position: int) -> tuple[int, int]:
    """Read "one thousand, nine hundred and thirty-seven"; return its value and the position after it."""
    total, part, room = 0, None, 100  # room: what the next small number must stay below, so "two three" is two numbers
    for place in range(position, len(tokens)):
        word = tokens[place].text
        if word in MULTIPLIERS and part is not None and part < 10**9:
            total, part = (total, part * 100) if word == "hundred" else (total + part * MULTIPLIERS[word], 0)
            room = 100
        elif part is None or (word in NUMBER_WORDS and 0 < NUMBER_WORDS[word] < room):
            value = NUMBER_WORDS[word] if word in NUMBER_WORDS else int(word)
            part, room = (part or 0) + value, 10 if value >= 20 and value % 10 == 0 else 0
        elif word not in ("and", ",") or room != 100 or not NUMBER_WORDS.keys() & {
                token.text for token in tokens[place + 1: place + 3]}:
            return total + part, place
    return total + (part or 0), len(tokens)


@cache
def synonym_table() -> dict[str, dict[tuple[str, ...], set[tuple[str, ...]]]]:
    """Return first word -> phrase -> phrases of the same meaning."""
    table: dict[str, dict[tuple[str, ...], set[tuple[str, ...]]]] = {}
    for group in re.split(r"\n| ; ", SYNONYMS.strip()):
        phrases = [tuple(normalise(phrase).split()) for phrase in group.split("|")]
        for phrase in phrases:
            table.setdefault(phrase[0], {}).setdefault(phrase, set()).update(p for p in phrases if p != phrase)
    return table


def equal_quantities(number: str, unit: str = "") -> list[tuple[str, str]]:
    """Return the same quantity in the other units of its dimension: 0.5 g is 500 mg."""
    sizes = next((sizes for sizes in UNITS if unit in sizes), {})
    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", number):
        return []
    values = {other: Fraction(number) * Fraction(sizes[unit]) / Fraction(size) for other, size in sizes.items()}
    return [(format_number(f"{float(value):.6f}"), other) for other, value in values.items()
            if other != unit and (value * 10**6).denominator == 1]

"""Reduces the names of a device to known words: manufacturer and model are free text, which may hold any name."""

from __future__ import annotations

import re

OTHER = "other"
"""Stands for a text that is not known."""

VENDORS = {
    "SIEMENS": "Siemens", "G E": "GE", "GE MEDICAL": "GE", "GE HEALTHCARE": "GE", "GEHC": "GE", "GENERAL ELECTRIC": "GE",
    "GEMS": "GE", "PHILIPS": "Philips", "MARCONI": "Philips", "PICKER": "Philips", "ADAC": "Philips",
    "ATL": "Philips", "CANON": "Canon", "TOSHIBA": "Canon", "HITACHI": "Hitachi", "ALOKA": "Hitachi",
    "FUJIFILM": "Fujifilm", "FUJI": "Fujifilm", "SONOSITE": "Fujifilm", "AGFA": "Agfa", "CARESTREAM": "Carestream",
    "KODAK": "Carestream", "HOLOGIC": "Hologic", "LORAD": "Hologic", "SUPERSONIC": "Hologic", "SAMSUNG": "Samsung",
    "MEDISON": "Samsung", "NEUROLOGICA": "Samsung", "MINDRAY": "Mindray", "ESAOTE": "Esaote", "SHIMADZU": "Shimadzu",
    "KONICA": "Konica Minolta", "MINOLTA": "Konica Minolta", "UNITED IMAGING": "United Imaging", "UIH": "United Imaging",
    "VARIAN": "Varian", "ELEKTA": "Elekta", "BRUKER": "Bruker", "SECTRA": "Sectra", "PLANMED": "Planmed",
    "PLANMECA": "Planmeca", "SWISSRAY": "Swissray", "SIRONA": "Dentsply Sirona", "VATECH": "Vatech", "ZIEHM": "Ziehm",
    "ACUSON": "Siemens", "CTI": "Siemens", "NEUSOFT": "Neusoft", "EDAN": "Edan", "HAMAMATSU": "Hamamatsu",
    "LEICA": "Leica", "APERIO": "Leica", "3DHISTECH": "3DHISTECH", "TOPCON": "Topcon", "ZEISS": "Zeiss",
    "HEIDELBERG": "Heidelberg", "GIOTTO": "IMS Giotto", "IMS": "IMS Giotto", "METALTRONICA": "Metaltronica",
    "ACCURAY": "Accuray", "TOMOTHERAPY": "Accuray", "MEDTRONIC": "Medtronic", "OLYMPUS": "Olympus", "STRYKER": "Stryker",
}  # fmt: skip
"""Names as they are stored, by a word or two that begin a manufacturer's name in files. A maker that was bought has its
buyer's name.
"""
_MODEL_WORDS = """
SOMATOM DEFINITION SENSATION EMOTION FORCE DRIVE EDGE FLASH PERSPECTIVE SCOPE CONFIDENCE VOLUME ZOOM NAEOTOM ALPHA
MAGNETOM AERA SKYRA PRISMA PRISMAFIT VIDA LUMINA SOLA ALTEA AMIRA FREE MAX STAR TRIO TRIOTIM AVANTO AVANTOFIT ESPREE
VERIO SYMPHONY SYMPHONYTIM SONATA HARMONY CONCERTO ESSENZA SPECTRA TERRA ALLEGRA BIOGRAPH MMR MCT VISION QUADRA
HORIZON TRUEPOINT SYMBIA ECAM INTEVO MAMMOMAT INSPIRATION REVELATION NOVATION AXIOM ARISTOS LUMINOS ICONOS ARTIS ZEE
ZEEGO PHENO ICONO YSIO MULTIX FLUOROSPOT COMPACT SEQUOIA ACUSON JUNIPER REDWOOD ANTARES LIGHTSPEED BRIGHTSPEED HISPEED
OPTIMA REVOLUTION DISCOVERY SIGNA GENESIS EXCITE ARTIST ARCHITECT PIONEER PREMIER EXPLORER VOYAGER CREATOR ADVANTAGE
ADVANCE INFINIA MILLENNIUM SENOGRAPHE SENOGRAPH ESSENTIAL PRISTINA DEFINIUM LOGIQ VOLUSON VIVID VENUE INNOVA APEX
FRONTIER EVO ELITE ULTRA PRO TIER BRILLIANCE INGENUITY ICT IQON INCISIVE GEMINI TF VEREOS ACHIEVA INGENIA INTERA
PANORAMA GYROSCAN AMBITION ELITION PRODIVA PRECEDENCE BRIGHTVIEW MX SPECTRAL DIGITALDIAGNOST DIAGNOST ALLURA XPER
AZURION EPIQ AFFINITI ELEVA CLEARVUE SPARQ INTUIS CX IE PCR ESSENTA AQUILION ONE PRIME LIGHTNING ASTEION ACTIVION
VANTAGE TITAN ORIAN GALAN ELAN EXCELART APLIO XARIO NEMIO CXDI INFINIX ULTIMAX SUPRIA SCENARIA ECHELON OASIS AIRIS
APERTO ARIETTA PROSOUND AMULET INNOVALITY SYNAPSE FDR DRX DIRECTVIEW EVOLUTION DRYVIEW SELENIA DIMENSIONS LORAD MIII
ACCUVIX RESONA ULTRASOUND MYLAB UMR UCT UMI UDR SONIALVISION RADSPEED AERODR REGIUS MAMMOGRAPHY MICRODOSE NUANCE
PRIMUS TRILOGY TRUEBEAM HALCYON CT MR PET SPECT XR DR CR SCANNER SYSTEM PLUS PIXEL DIGITAL FIT TIM DUAL SOURCE SLICE
TOP NOW UP ALL OPEN SPEED EXPERT POWER MOBILE STATION WORKSTATION
"""
MODEL_WORDS = frozenset(_MODEL_WORDS.split())
"""Words of models' names that are kept."""
_CODE = re.compile(r"[A-Z]{0,2}[0-9]{1,4}[A-Z]{0,2}")
_LONGEST_MODEL = 64


def vendor(text: str) -> str:
    """Return the known name of a manufacturer, or "other"."""
    words = re.sub(r"[^A-Z0-9]+", " ", text.upper()).split()
    for start in (" ".join(words[:2]), " ".join(words[:1])):
        if start in VENDORS:
            return VENDORS[start]
    return OTHER


def model(text: str) -> str:
    """Return a model's name in capitals if it has known words and short codes (T3, 750, HD) only, or "other".

    At least one word must be known: a code alone may be anything.
    """
    words = re.sub(r"[^A-Z0-9]+", " ", text.upper()[:_LONGEST_MODEL]).split()
    known = [word for word in words if word in MODEL_WORDS]
    if known and all(word in MODEL_WORDS or len(word) <= 2 or _CODE.fullmatch(word) for word in words):
        return " ".join(words)
    return OTHER

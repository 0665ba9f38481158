"""Maps codes of body parts to the words for regions that the other datasets use.

Codes are the defined terms of Body Part Examined (PS3.16, Annex L). Codes of Anatomic Region Sequence (SNOMED CT and the
older SRT; PS3.16, CID 4009 and 4031) are translated to these terms. Where RadImageNet has a word for a region (abd, af,
brain, ...), it is used, so that one filter finds the images of both.
"""

from __future__ import annotations

from collections.abc import Mapping

_TERMS = {
    "abd": "ABDOMEN ABDOMENPELVIS RETROPERITONEUM",
    "adrenal": "ADRENAL",
    "af": "ANKLE FOOT CALCANEUS TARSALJOINT ANKLEFOOT",  # as RadImageNet calls ankle and foot
    "aorta": "AORTA ABDOMINALAORTA THORACICAORTA AORTICARCH",
    "arm": "ARM UPPERARM HUMERUS UPPERLIMB EXTREMITYUPPER",
    "bladder": "BLADDER",
    "brain": "BRAIN CEREBRUM CEREBELLUM PITUITARY SELLA",
    "breast": "BREAST",
    "chest": "CHEST THORAX RIB STERNUM MEDIASTINUM CLAVICLE SCJOINT",
    "chest abd": "CHESTABDOMEN CHESTABDPELVIS CHESTABDOMENPELVIS",
    "colon": "COLON LARGEINTESTINE RECTUM",
    "ear": "EAR IAC MASTOID TEMPORALBONE",
    "elbow": "ELBOW",
    "esophagus": "ESOPHAGUS",
    "eye": "EYE ORBIT OPTICCANAL",
    "face": "FACE FACIALBONES NASALBONE NOSE ZYGOMA SINUS PARANASALSINUS",
    "femur": "FEMUR THIGH",
    "finger": "FINGER THUMB",
    "forearm": "FOREARM RADIUS ULNA RADIUSULNA",
    "gallbladder": "GALLBLADDER BILEDUCT BILIARYTRACT",
    "hand": "HAND",
    "head": "HEAD SKULL HEADNECK",
    "heart": "HEART CORONARYARTERY",
    "hip": "HIP HIPJOINT",
    "jaw": "JAW MANDIBLE MAXILLA TMJ TEETH TOOTH DENTAL",
    "kidney": "KIDNEY URINARYTRACT URETER",
    "knee": "KNEE PATELLA",
    "leg": "LEG LOWERLEG TIBIA FIBULA TIBIAFIBULA LOWERLIMB EXTREMITYLOWER",
    "liver": "LIVER",
    "lung": "LUNG BRONCHUS",
    "neck": "NECK LARYNX PHARYNX TRACHEA NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV",
    "ovary": "OVARY",
    "pancreas": "PANCREAS",
    "parotid": "PAROTID",
    "pelvis": "PELVIS ILIUM",
    "phantom": "PHANTOM",
    "prostate": "PROSTATE",
    "shoulder": "SHOULDER SCAPULA ACJOINT",
    "small intestine": "SMALLINTESTINE DUODENUM JEJUNUM ILEUM",
    "spine": (
        "SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE COCCYX SACRUM SIJOINT WHOLESPINE"
        " CERVICALSPINE THORACICSPINE LUMBARSPINE"
    ),
    "spleen": "SPLEEN",
    "stomach": "STOMACH",
    "testis": "TESTIS SCROTUM",
    "thyroid": "THYROID",
    "toe": "TOE",
    "uterus": "UTERUS",
    "whole body": "WHOLEBODY BODY",
    "wrist": "WRIST SCAPHOID",
}
REGIONS: Mapping[str, str] = {term: word for word, terms in _TERMS.items() for term in terms.split()}
"""Words by terms without spaces."""

_CODES = {
    "ABDOMEN": "818981001 113345001 T-D4000",
    "ABDOMENPELVIS": "818982008 416949008 R-FAB57",
    "ANKLE": "70258002 T-15750",
    "BLADDER": "89837001 T-74000",
    "BRAIN": "12738006 T-A0100",
    "BREAST": "76752008 T-04000",
    "CALCANEUS": "80144004 T-12770",
    "CHEST": "816094009 51185008 T-D3000",
    "CHESTABDOMEN": "416550000 R-FAB55",
    "CHESTABDPELVIS": "416775004 R-FAB56",
    "CLAVICLE": "51299004 T-12310",
    "COLON": "71854001 T-59300",
    "CSPINE": "122494005 T-11501",
    "ELBOW": "16953009 T-15430",
    "EYE": "81745001 T-AA000",
    "FEMUR": "71341001 T-12710",
    "FIBULA": "87342007 T-12750",
    "FINGER": "7569003 T-D8800",
    "FOOT": "56459004 T-D9700",
    "FOREARM": "14975008 T-D8500",
    "GALLBLADDER": "28231008 T-63000",
    "HAND": "85562004 T-D8700",
    "HEAD": "69536005 T-D1100",
    "HEADNECK": "774007 T-D1000",
    "HEART": "80891009 T-32000",
    "HIP": "29836001 24136001 T-D2500 T-15710",
    "HUMERUS": "85050009 T-12410",
    "JAW": "661005 T-D1213",
    "KIDNEY": "64033007 T-71000",
    "KNEE": "72696002 T-D9200",
    "LIVER": "10200004 T-62000",
    "LOWERLEG": "30021000 T-D9400",
    "LSPINE": "122496007 T-11503",
    "LSSPINE": "1217253001",
    "LUNG": "39607008 T-28000",
    "MANDIBLE": "91609006 T-11180",
    "MAXILLA": "70925003 T-11170",
    "NECK": "45048000 T-D1600",
    "NECKCHEST": "417437006 R-FAB52",
    "PANCREAS": "15776009 T-65000",
    "PATELLA": "64234005 T-12730",
    "PELVIS": "816092008 12921003 T-D6000",
    "PHANTOM": "706342009 R-FE0C7",
    "PROSTATE": "41216001 T-92000",
    "RIB": "113197003 T-11300",
    "SACRUM": "54735007 T-11AD0",
    "SCAPULA": "79601000 T-12280",
    "SHOULDER": "16982005 T-D2220",
    "SKULL": "89546000 T-11100",
    "SPINE": "421060004 T-D04FF",
    "STERNUM": "56873002 T-11210",
    "STOMACH": "69695003 T-57000",
    "THIGH": "68367000 T-D9100",
    "THUMB": "76505004 T-D8810",
    "THYROID": "69748006 T-B6000",
    "TOE": "29707007 T-D9800",
    "TSPINE": "122495006 T-11502",
    "UPPERARM": "40983000 T-D8200",
    "UTERUS": "35039007 T-83000",
    "WHOLEBODY": "38266002 T-D0010",
    "WRIST": "74670003 T-15460",
}
TERMS_OF_CODES: Mapping[str, str] = {code: term for term, codes in _CODES.items() for code in codes.split()}
"""Terms of Body Part Examined by SNOMED code."""


def compact(code: str) -> str:
    """Return a term as the mapping has it: ``whole body`` and ``WHOLE_BODY`` are ``WHOLEBODY``."""
    return "".join(char for char in code.upper() if char.isalnum())


def region_of(code: str, extra: Mapping[str, str]) -> str | None:
    """Return the word for a body part's code; None if it is unknown.

    :param extra: the user's words by code, which come first.
    """
    if (word := extra.get(code)) is not None:
        return word
    return REGIONS.get(compact(code))

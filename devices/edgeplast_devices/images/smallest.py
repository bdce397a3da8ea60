"""Pictures of 8 x 8 pixels, one of each format whose decoder is a library of its own, to run it once."""

from __future__ import annotations

import base64

_BASE85 = {
    "JPEG": (
        "|JeWF01!$>Nk#wx0RR9200961|JwjV08lqPMm#c5MnOheRZw4e$bxuoZg};txsk~K|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0"
        "|NsC0|NsC0|Nq+nLjhG<T6k%A>w<#o|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsC0|NsBM"
        "01*fP2mlBJ0U`hb5di}c0sq7R6#xMN00000000000000000002|HJ?k5CH%H0000000000000000095Q02KiN0RR910000000000"
        "000011OLPT6cGUc00000000000000000030+5ij#0RRFK0}%i}0Duz@|Je"
    ),
    "PNG": ("iBL{Q4GJ0x0000DNk~Le00008000082m$~A084Et+yDRo6iGxuRCt_YjH-}hzy_GGiVj){0Knt{0B2Rc3;+NC07*qoM6N<$f&"),
    "WEBP": ("Qb|TeEC2uiS4BclR!}$~AOHXWZ~*|F0V)Up2ml8_mL;G9bOAsB0RGgOWtqagiQ|9("),
    "TIFF": (
        "Nl7XIFaQ7mfEJGd=oAtM1%yH2P-tW(8w-a-Vi7oeRwWjSMdMMJ<YGM=kHX*}3IG5B0{{U4000O8000320{{U4000O8000630{{a6"
        "006E4000940{{U4000F5000I70{{U400062000pI1ONd5000O8000#M0{{U400093000&N0{{U4000O8000*O1ONd5001Ze000~T"
        "0{{U40003100000000O82mlBG"
    ),
    "AVIF": (
        "0000WW^{RQVRmU|00000VRmU|ZE0pPZE0a<O+hh20002%ZDn*}000000000XXk=`10000000000aA{+700000000000000000000"
        "4sdC7Z2$lO000310016oY;R)#0000)000310RR910RR926951JApigXC~0YKW&i*H00031000_kZf0cy000000RRADb}%tRZ)|UJ"
        "00000YH4tCZ~y=ROKEUpZvX%Q6lrsCWdHyG000002mk;82mk;85O8UDX#fBK00RgJ2mk;83}JRLLxBJc000006Ju{|a&BX6cmM$a"
        "4FCp!0000NX>e^}0000000001009I60)qqq001d%WMOm?015~g2)}56hJ!*f6CTHhg<0SK|Kh*^0FX6~J8{OO"
    ),
    "JPEG2000": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}000080000800RdH0000001sntY;pkr000005C8xG"
        "rfP69WB*V8Q2;Lh000002mk;82mk;800000000002mk;82mk;8000000009A0RaaA0S5sA|55-90000100RUB00IA801ZGuNJvmf"
        "NKi;fQ2%5AB>(|Ka%Ew3Wn>^?c_2@4Wo}APMMofZWpZ<AZ*CwmE;TMR|BwI*0000003`qc|C7hm1O~ss@&O0Wv<L{FfPjF2fPjF2"
        "fdAP"
    ),
}


def smallest(kind: str) -> bytes | None:
    """Return the smallest picture of a format; None for formats that need no library."""
    encoded = _BASE85.get(kind)
    return None if encoded is None else base64.b85decode(encoded)

"""The members of a sample, one file each: how they are stored and checked.

Writers and readers are loops over `MEMBERS`. To add a member, write its file, list it here, and
give `Sample` a field for it.
"""

from __future__ import annotations

from shards.members.base import Member
from shards.members.boxes import Boxes
from shards.members.classes import Classes
from shards.members.concepts import ConceptWords
from shards.members.description import Description
from shards.members.grounding import Grounding
from shards.members.picture import Picture
from shards.members.regions import Regions
from shards.members.relations import Relations

DESCRIPTION, REGIONS, BOXES, GROUNDING = Description(), Regions(), Boxes(), Grounding()

#: In their order in a tar.
MEMBERS: tuple[Member, ...] = (
    DESCRIPTION,
    REGIONS,
    BOXES,
    Classes(),
    ConceptWords(),
    GROUNDING,
    Relations(),
    Picture(),
)

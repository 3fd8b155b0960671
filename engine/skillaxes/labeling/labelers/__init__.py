"""The labelers by name: a new one is a file here and an entry in ``LABELERS``.

The table is read by the command line's help, so a labeler imports heavy libraries in its methods.
"""

from __future__ import annotations

from skillaxes.labeling.labelers.base import Labeler
from skillaxes.labeling.labelers.keywords import KeywordsLabeler
from skillaxes.labeling.labelers.openai import OpenAILabeler

LABELERS: dict[str, type[Labeler]] = {cls.name: cls for cls in (KeywordsLabeler, OpenAILabeler)}

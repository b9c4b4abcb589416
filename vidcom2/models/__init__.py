"""How a compressor meets a model: one module per family. Importing the package registers them in `vidcom2.families`."""

from vidcom2.families import FAMILIES
from vidcom2.models import llava, transformers

FAMILIES += [llava, transformers]

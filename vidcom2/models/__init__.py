"""How a compressor meets a model. Importing the package registers its two families in `vidcom2.families.FAMILIES`.

- llava.py: models that splice the videos into the text themselves (the llava tree).
- transformers.py: transformers' own models, by hooks. hooks.py and pruning.py are for methods before the LLM, inside.py
  for methods inside it; layouts/ tells where each family's videos are.
- layers.py: hooks on the layers of a language model, for both families.
- names.py: what transformers calls things.
"""

from vidcom2.families import FAMILIES
from vidcom2.models import llava, transformers

FAMILIES += [llava, transformers]

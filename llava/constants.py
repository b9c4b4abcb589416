"""Token strings and marker ids that the whole tree shares, as in upstream's `llava/constants.py`."""

IGNORE_INDEX = -100
"""Label of the positions that the loss ignores."""

IMAGE_TOKEN_INDEX = -200
"""Marks a slot in `input_ids`: the features of one image or video replace it. No vocabulary has this id."""

DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"

"""Token strings and marker ids shared by the whole tree."""

IGNORE_INDEX = -100
"""Label of positions that do not count towards the loss."""

IMAGE_TOKEN_INDEX = -200
"""Stands in `input_ids` where the features of one image or video are spliced in; never a vocabulary id."""

DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"

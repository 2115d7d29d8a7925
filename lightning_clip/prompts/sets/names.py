"""Class names of well-known sets, in the order of their labels."""

from __future__ import annotations

from collections.abc import Callable

from lightning_clip.core.errors import InputError, nearest

__all__ = ["CALTECH101", "CLASS_NAME_SETS", "class_names", "plain"]

_DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
_FASHION = (
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_EUROSAT = (
    "annual crop land", "forest", "brushland or shrubland", "highway or road", "industrial buildings", "pasture land",
    "permanent crop land", "residential buildings", "river", "sea or lake",
)  # fmt: skip
_FER2013 = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
_PCAM = ("lymph node tissue without a tumor", "lymph node tissue with a metastatic tumor")
_GTSRB = (
    "speed limit 20 km/h", "speed limit 30 km/h", "speed limit 50 km/h", "speed limit 60 km/h", "speed limit 70 km/h",
    "speed limit 80 km/h", "end of speed limit 80 km/h", "speed limit 100 km/h", "speed limit 120 km/h", "no passing",
    "no passing for trucks", "right of way at the next crossing", "priority road", "yield", "stop", "no vehicles", "no trucks",
    "no entry", "general danger", "dangerous curve to the left", "dangerous curve to the right", "double curve", "bumpy road",
    "slippery road", "road narrows on the right", "road work", "traffic lights ahead", "pedestrians", "children crossing",
    "bicycles crossing", "beware of ice or snow", "wild animals crossing", "end of all speed and passing limits",
    "turn right ahead", "turn left ahead", "ahead only", "straight ahead or right", "straight ahead or left", "keep right",
    "keep left", "roundabout", "end of no passing", "end of no passing for trucks",
)  # fmt: skip
_FLOWERS102 = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth", "corn poppy",
    "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation", "garden phlox",
    "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort",
    "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia", "bolero deep blue", "wallflower",
    "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia", "wild pansy", "primula", "sunflower",
    "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia", "pink and yellow dahlia", "cautleya spicata",
    "japanese anemone", "black-eyed susan", "silverbush", "californian poppy", "osteospermum", "spring crocus",
    "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory",
    "passion flower", "lotus", "toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert rose",
    "tree mallow", "magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove",
    "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper",
    "blackberry lily",
)  # fmt: skip

# Folders of Caltech-101 whose names do not describe the images.
CALTECH101 = {
    "Faces": "face off the center",
    "Faces_easy": "centered face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "brontosaurus": "brontosaurus",
    "car_side": "side of a car",
    "cougar_body": "body of a cougar",
    "cougar_face": "face of a cougar",
    "crocodile_head": "head of a crocodile",
    "flamingo_head": "head of a flamingo",
    "watch": "watch",
    "water_lilly": "water lily",
}


def _imagenet() -> list[str]:
    from open_clip import IMAGENET_CLASSNAMES  # here: importing open_clip is slow

    return list(IMAGENET_CLASSNAMES)


# A set of your own: CLASS_NAME_SETS["pond"] = lambda: ["frog", "heron"]
CLASS_NAME_SETS: dict[str, Callable[[], list[str]]] = {
    "eurosat": lambda: list(_EUROSAT),
    "fashion_mnist": lambda: list(_FASHION),
    "fer2013": lambda: list(_FER2013),
    "flowers102": lambda: list(_FLOWERS102),
    "gtsrb": lambda: list(_GTSRB),
    "imagenet": _imagenet,
    "mnist": lambda: list(_DIGITS),
    "pcam": lambda: list(_PCAM),
    "rendered_sst2": lambda: ["negative", "positive"],
    "stl10": lambda: list(_STL10),
    "svhn": lambda: list(_DIGITS),
}


def class_names(name: str) -> list[str]:
    """Class names that are written down, in the order of the labels.

    Those of "imagenet" are OpenAI's, as open_clip ships them
    (https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb).

    Args:
        name: a key of `CLASS_NAME_SETS`.

    Raises:
        InputError: no such set; the message lists the known ones and the nearest.

    Examples:
        >>> class_names("fer2013")[:3]
        ['angry', 'disgusted', 'fearful']
    """
    if name not in CLASS_NAME_SETS:
        raise InputError(f"unknown class names {name!r}: {nearest(name, CLASS_NAME_SETS)}. Or give a list of names.")
    return CLASS_NAME_SETS[name]()


def plain(name: str) -> str:
    """A class name as one writes it: spaces for underscores, and of a path the last part first.

    Args:
        name: as a data set has it.

    Examples:
        >>> plain("aquarium_fish"), plain("apartment_building/outdoor")
        ('aquarium fish', 'outdoor apartment building')
    """
    return " ".join(" ".join(reversed(name.split("/"))).replace("_", " ").split())

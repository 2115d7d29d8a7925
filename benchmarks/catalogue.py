"""The list of models that `lightning-clip models` prints: writes it from open_clip's list, its published results, and the
repositories and licences below.

`python benchmarks/catalogue.py RESULTS RETRIEVAL`, the files being docs/openclip_results.csv and
docs/openclip_retrieval_results.csv of github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import open_clip

FILE = Path(__file__).resolve().parent.parent / "lightning_clip" / "weights" / "published" / "models.csv"
RESULTS = "open_clip docs/openclip_results.csv and openclip_retrieval_results.csv"
FIGURES = {"ImageNet 1k": "imagenet", "Average perf. on 38 datasets": "mean38"}
RETRIEVAL = {"Flickr image retr. R@1": "flickr_image", "MSCOCO image retr. R@1": "coco_image"}
COLUMNS = ["source", "kind", "architecture", "domain", "licence", "licence_from", *FIGURES.values(), *RETRIEVAL.values()]
COLUMNS += ["figures_from", "note"]

PAGE = "open_clip docs/PRETRAINED.md"
# How the place of the weights begins -> licence, and where it stands. What is not here was not found, and is left empty.
LICENCES = [
    ("laion/", "MIT", "the model's page on the hub"),
    ("UCSC-VLAA/", "Apache-2.0", PAGE),
    ("apple/DFN", "Apple's, see its LICENSE file", PAGE),
    ("timm/eva", "MIT", PAGE),
    ("timm/PE-Core", "Apache-2.0", "github.com/facebookresearch/perception_models"),
    ("visheratin/nllb", "CC-BY-NC", PAGE),
]
METACLIP = ("CC-BY-NC", PAGE)
SIGLIP = ("Apache-2.0", PAGE)
OPENAI = ("MIT", "github.com/openai/CLIP, LICENSE")
MULTILINGUAL = ("xlm-roberta", "nllb", "mt5", "i18n", "SigLIP2", "worldwide")


def entry(source: str, kind: str, architecture: str, domain: str, **rest: Any) -> dict[str, Any]:
    return {"source": source, "kind": kind, "architecture": architecture, "domain": domain, **rest}


def hub(source: str, architecture: str, domain: str, licence: str = "", note: str = "") -> dict[str, Any]:
    where = "the model's page on the hub" if licence else ""
    return entry(source, "hub", architecture, domain, licence=licence, licence_from=where, note=note)


BIOMED = "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
REMOTE = "a file of hf.co/chendelong/RemoteCLIP; its repository names no licence"
CHINESE = "MUGE R@1 63.0, Flickr30K-CN R@1 71.2 / 81.6 zero-shot (Yang et al. 2022, arXiv 2211.01335)"
HUB = [
    hub(BIOMED, "", "medical", "MIT", "784 MB; figures of articles"),
    hub("hf:flaviagiammarino/pubmed-clip-vit-base-patch32", "ViT-B-32", "medical", note="radiology (ROCO)"),
    hub("open_clip:hf-hub:wisdomik/QuiltNet-B-32", "ViT-B-32", "medical", "MIT", "histopathology"),
    hub("hf:vinid/plip", "ViT-B-32", "medical", note="pathology"),
    hub("open_clip:ViT-B-32/RemoteCLIP-ViT-B-32.pt", "ViT-B-32", "remote sensing", note=REMOTE),
    hub("open_clip:ViT-L-14/RemoteCLIP-ViT-L-14.pt", "ViT-L-14", "remote sensing", note=REMOTE),
    hub("hf:flax-community/clip-rsicd-v2", "ViT-B-32", "remote sensing", note="RSICD and others"),
    hub("hf:patrickjohncyh/fashion-clip", "ViT-B-32", "products", note="fashion"),
    hub("open_clip:hf-hub:Marqo/marqo-fashionSigLIP", "ViT-B-16-SigLIP", "products", "Apache-2.0", "fashion"),
    hub("open_clip:hf-hub:Marqo/marqo-fashionCLIP", "ViT-B-16", "products", note="fashion"),
    hub("open_clip:hf-hub:imageomics/bioclip", "ViT-B-16", "biology", "MIT", "species, by their taxonomy"),
    hub("hf:OFA-Sys/chinese-clip-vit-large-patch14", "", "Chinese"),
    hub("hf:OFA-Sys/chinese-clip-vit-huge-patch14", "", "Chinese", note=CHINESE),
]

FAMILIES = {
    "clip": ("openai/clip-vit-base-patch32", "general"),
    "metaclip_2": ("facebook/metaclip-2-worldwide-huge-quickgelu", "multilingual"),
    "siglip": ("google/siglip-base-patch16-224", "general"),
    "siglip2": ("google/siglip2-base-patch16-naflex", "multilingual"),
    "chinese_clip": ("OFA-Sys/chinese-clip-vit-base-patch16", "Chinese"),
    "altclip": ("BAAI/AltCLIP", "multilingual"),
    "align": ("kakaobrain/align-base", "general"),
    "aimv2": ("apple/aimv2-large-patch14-224-lit", "general"),
    "tipsv2": ("google/tipsv2-b14", "general"),
    "clipseg": ("CIDAS/clipseg-rd64-refined", "general"),
    "vision-text-dual-encoder": ("FOLDER", "general"),
    "owlvit": ("google/owlvit-base-patch32", "general"),
    "owlv2": ("google/owlv2-base-patch16-ensemble", "general"),
}


def licence_of(name: str, tag: str, place: str) -> tuple[str, str]:
    if tag == "openai":
        return OPENAI
    if "metaclip" in tag and "metaclip2" not in tag:
        return METACLIP
    if "-SigLIP" in name and "SigLIP2" not in name and place.startswith("timm/"):
        return SIGLIP
    return next(((licence, where) for start, licence, where in LICENCES if place.startswith(start)), ("", ""))


def published(results: Path, retrieval: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Figures in percent by open_clip's name and tag."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path, columns in ((results, FIGURES), (retrieval, RETRIEVAL)):
        for row in csv.DictReader(path.read_text("utf-8").splitlines()):
            own = found.setdefault((row["name"], row["pretrained"]), {})
            own |= {ours: round(100 * float(row[theirs]), 2) for theirs, ours in columns.items() if row[theirs]}
    return found


def tags(figures: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, Any]]:
    """open_clip's weights: those that stand under two names are one file, which is opened with its own activation."""
    places = {pair: open_clip.get_pretrained_cfg(*pair).get("hf_hub", "") for pair in open_clip.list_pretrained()}
    rows = []
    for (name, tag), place in places.items():
        others = [pair for pair in figures if pair[1] == tag and place and places.get(pair) == place]
        same = (name, tag) if (name, tag) in figures else next(iter(others), None)
        licence, where = licence_of(name, tag, place)
        domain = "multilingual" if any(word in name for word in MULTILINGUAL) else "general"
        note = "" if same in (None, (name, tag)) else f"figures of the same file under {same[0]}"
        rows.append(
            entry(f"open_clip:{name}/{tag}", "tag", name, domain, licence=licence, licence_from=where, note=note)
            | ({**figures[same], "figures_from": RESULTS} if same is not None else {})
        )
    return rows


def main() -> None:
    """Writes all rows."""
    rows = tags(published(Path(sys.argv[1]), Path(sys.argv[2])))
    named = {name for name, _ in open_clip.list_pretrained()}
    without = [name for name in open_clip.list_models() if name not in named]
    rows += [entry(f"open_clip:{name}/FILE", "architecture", name, "general") for name in without]
    rows += HUB
    for family, (example, domain) in FAMILIES.items():
        known = "" if family == "vision-text-dual-encoder" else "; sizes of its default configuration"
        rows.append(entry(f"hf:{example}", "family", family, domain, note=f"transformers' {family}{known}"))
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} models, {sum('imagenet' in row for row in rows)} with figures")


if __name__ == "__main__":
    main()

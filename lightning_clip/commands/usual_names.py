"""Names that people bring from other trainers, and what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = ["meant_setting"]

_OPTIMIZER = "model.training.optimizer"
_USUAL = {
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "batch_size": "data.local_batch_size",
    "per_device_train_batch_size": "data.local_batch_size",
    "workers": "data.num_workers",
    "train_data": "data.train",
    "val_data": "data.val",
    "dataset": "data.train",
    "data_dir": "data.train",
    "lr": f"{_OPTIMIZER}.lr",
    "learning_rate": f"{_OPTIMIZER}.lr",
    "wd": f"{_OPTIMIZER}.weight_decay",
    "weight_decay": f"{_OPTIMIZER}.weight_decay",
    "warmup": f"{_OPTIMIZER}.warmup_steps",
    "warmup_steps": f"{_OPTIMIZER}.warmup_steps",
    "scheduler": f"{_OPTIMIZER}.schedule",
    "lr_scheduler": f"{_OPTIMIZER}.schedule",
    "optimizer": _OPTIMIZER,
    "opt": f"{_OPTIMIZER}.name",
    "micro_batch_size": "model.training.micro_batch_size",
    "accum_freq": "trainer.accumulate_grad_batches",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "grad_clip_norm": "trainer.gradient_clip_val",
    "max_grad_norm": "trainer.gradient_clip_val",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "device": "trainer.accelerator",
    "nodes": "trainer.num_nodes",
    "fp16": "trainer.precision",
    "bf16": "trainer.precision",
    "amp": "trainer.precision",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "output": "trainer.default_root_dir",
    "output_dir": "trainer.default_root_dir",
    "logs": "trainer.default_root_dir",
    "save_dir": "trainer.default_root_dir",
    "report_to": "trainer.logger",
    "seed": "seed_everything",
    "loss": "model.objective",
    "dim": "model.embed_dim",
    "visual": "model.image_encoder",
    "vision_encoder": "model.image_encoder",
    "image_tower": "model.image_encoder",
    "text_tower": "model.text_encoder",
    "lora": "model.training.adapt",
    "adapt": "model.training.adapt",
    "compile": "model.training.execution",
    "torchcompile": "model.training.execution",
    "import_": "import",
}


def meant_setting(key: str, known: Collection[str]) -> str | None:
    """The setting that a key stands for which there is not, if that can be told.

    Args:
        key: such as "epochs", "max-steps", "trainer.max_step" or "modle.embed_dim".
        known: all settings, with their sections.

    Examples:
        >>> known = ["trainer.max_steps", "trainer.max_epochs", "model.embed_dim", "model"]
        >>> [meant_setting(key, known) for key in ("epochs", "max-steps", "trainer.max_step", "modle.embed_dim", "colour")]
        ['trainer.max_epochs', 'trainer.max_steps', 'trainer.max_steps', 'model.embed_dim', None]
    """
    name = key.replace("-", "_").lower()
    section, _, leaf = name.rpartition(".")
    if section and section not in known and (near := difflib.get_close_matches(section, _sections(known), n=1)):
        section, name = near[0], f"{near[0]}.{leaf}"
        if name in known:
            return name
    if section and (inside := difflib.get_close_matches(name, [item for item in known if item.startswith(f"{section}.")], n=1)):
        return inside[0]
    if leaf in _USUAL:
        return _USUAL[leaf]
    leaves = {item.rpartition(".")[2]: item for item in sorted(known, reverse=True)}
    found = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    return leaves[found[0]] if found else None


def _sections(known: Collection[str]) -> list[str]:
    return sorted({item.rpartition(".")[0] for item in known} - {""} | {item for item in known if "." not in item})

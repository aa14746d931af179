"""The end of an error message about an unknown name: which known one was probably meant."""

from collections.abc import Sequence
from difflib import get_close_matches

# What people write -> how an option may be called here; used where the option exists.
SYNONYMS = {
    "learning_rate": ("optimizer_lr", "lr"),
    "weight_decay": ("optimizer_weight_decay", "weight_decay"),
    "betas": ("optimizer_betas",),
    "grad_clip": ("optimizer_grad_clip_norm", "grad_clip"),
    "warmup_steps": ("scheduler_warmup_steps", "warmup_steps"),
    "hidden_size": ("width", "dim_model"),
    "num_layers": ("layers", "n_layers"),
    "num_heads": ("attention_heads", "n_heads"),
    "chunk_size": ("horizon", "chunk_size"),
    "iterations": ("steps",),
    "epochs": ("steps",),
}


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """ " Did you mean 'x'?" with up to two of the known names, or nothing."""
    names = {name: [name] for name in known}
    for synonym, targets in SYNONYMS.items():
        names.setdefault(synonym, [target for target in targets if target in known])
    close = [name for match in get_close_matches(word, names, n=3, cutoff=0.6) for name in names[match]]
    close = list(dict.fromkeys(close))[:2]
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""

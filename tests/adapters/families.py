"""Small encoders of each family, with random weights, and batches for them."""

import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TEXT = ("bert", "roberta", "distilbert", "modernbert")


def model_of(family, seed=0, **options):
    torch.manual_seed(seed)
    if family == "bert":
        model = BertModel(BertConfig(**SIZES, **options))
    elif family == "roberta":
        model = RobertaModel(RobertaConfig(**SIZES, **options))
    elif family == "distilbert":
        model = DistilBertModel(
            DistilBertConfig(vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=48,
                             max_position_embeddings=80, dropout=0.0, attention_dropout=0.0,
                             pad_token_id=1, **options)
        )  # fmt: skip
    elif family == "modernbert":
        sizes = {k: v for k, v in SIZES.items() if "dropout" not in k}
        model = ModernBertModel(
            ModernBertConfig(**sizes, local_attention=16, cls_token_id=0, sep_token_id=2,
                             global_attn_every_n_layers=2, **options)
        )  # fmt: skip
    else:
        model = ViTModel(
            ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=32,
                      intermediate_size=48, patch_size=4, hidden_dropout_prob=0.0,
                      attention_probs_dropout_prob=0.0, **options)
        )  # fmt: skip
    # Fresh weights attend to all alike: larger ones make the attention uneven.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(6)
    return model.eval()


def batch_of(family, lengths=(40, 23, 31), left=False, seed=1):
    """Inputs, and which tokens are real."""
    torch.manual_seed(seed)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 32, 32)}, None
    longest = max(lengths)
    ids = torch.randint(3, 50, (len(lengths), longest))
    place = torch.arange(longest)
    real = torch.tensor(lengths)[:, None]
    mask = place >= longest - real if left else place < real
    ids = torch.where(mask, ids, 1)
    return {"input_ids": ids, "attention_mask": mask.long()}, mask


def hidden(model, inputs, mask=None):
    """Last hidden state of the real tokens."""
    out = model(**inputs).last_hidden_state
    return out if mask is None else out[mask]

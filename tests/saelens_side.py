"""The side of SAELens and dictionary_learning: run by their own Python, makes autoencoders and loads ours.

python saelens_side.py make FOLDER     every class with random weights, saved as it saves itself; x, f and y of each
python saelens_side.py load FOLDER...  loads SAELens folders that hold x.npy; writes f.npy and y.npy beside it, and the
                                       explained variance of target.npy (or x.npy) by its own calculator
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.constants import ACTIVATION_WHITENING_FILENAME as WHITENING
from sae_lens.evals import ExplainedVarianceCalculator
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from safetensors.torch import save_file

D_IN, D_SAE, D_OUT, ROWS = 16, 48, 12, 40
METADATA = {"hook_name": "blocks.1.hook_resid_post", "model_name": "m", "prepend_bos": True, "context_size": 8}
SIZES = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
OUT = {"d_out": D_OUT, "apply_b_dec_to_input": False}
KINDS = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "not_centred": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    "scaled": (StandardSAE, StandardSAEConfig, {"normalize_activations": "expected_average_only_in"}),
    "layer_norm": (StandardSAE, StandardSAEConfig, {"normalize_activations": "layer_norm"}),
    "constant_norm": (JumpReLUSAE, JumpReLUSAEConfig, {"normalize_activations": "constant_norm_rescale"}),
    "whitened": (StandardSAE, StandardSAEConfig, {"normalize_activations": "covariance_whitening"}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": False}),
    "topk_rescaled": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "hook_z": (StandardSAE, StandardSAEConfig, {"reshape_activations": "hook_z"}),
    "transcoder": (Transcoder, TranscoderConfig, OUT),
    "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig, OUT),
    "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig, OUT),
    "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, OUT),
}


def fill(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights, thresholds above 0."""
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * 0.4
        parameter.data.copy_(values.abs() * 0.5 if "threshold" in name else values)


def save(folder: Path, x: torch.Tensor, f: torch.Tensor, y: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("x", x), ("f", f), ("y", y)):
        np.save(folder / f"{name}.npy", array.detach().float().numpy())


def make_saelens(root: Path, generator: torch.Generator) -> None:
    for kind, (cls, config, options) in KINDS.items():
        metadata = dict(METADATA)
        if "transcoder" in kind:
            metadata |= {"hook_name": "blocks.1.hook_resid_mid", "hook_name_out": "blocks.1.hook_mlp_out"}
        if kind == "hook_z":
            metadata["hook_name"] = "blocks.1.attn.hook_z"
        sae = cls(config(**SIZES, **options, metadata=SAEMetadata(**metadata)))
        fill(sae, generator)
        x = torch.randn(ROWS, D_IN, generator=generator) * (3 if kind == "scaled" else 1)
        sae.save_model(str(root / kind))
        if kind == "scaled":  # what SAELens does at inference, with the factor of these vectors
            sae.fold_activation_norm_scaling_factor(float(D_IN**0.5 / x.norm(dim=1).mean()))
        if kind == "whitened":  # the file that lies beside its checkpoints
            matrix, mean = torch.randn(D_IN, D_IN, generator=generator), torch.randn(D_IN, generator=generator)
            inverse = torch.linalg.inv(matrix).contiguous()
            save_file({"mean": mean, "matrix": matrix, "inverse_matrix": inverse}, root / kind / WHITENING)
            sae.fold_activation_whitening(mean, matrix, inverse)
        given = x.reshape(ROWS, 4, D_IN // 4) if kind == "hook_z" else x
        f = sae.encode(given)
        y = sae.decode(f).reshape(ROWS, -1)
        if "skip" in kind:
            y = sae(x)
        save(root / kind, x, f, y)


def make_dictionary_learning(root: Path, generator: torch.Generator) -> None:
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = [
        AutoEncoder(D_IN, D_SAE), AutoEncoderNew(D_IN, D_SAE), GatedAutoEncoder(D_IN, D_SAE),
        JumpReluAutoEncoder(D_IN, D_SAE), AutoEncoderTopK(D_IN, D_SAE, 5), BatchTopKSAE(D_IN, D_SAE, 5),
        MatryoshkaBatchTopKSAE(D_IN, D_SAE, 5, [16, 32]),
    ]  # fmt: skip
    for module in made:
        kind = type(module).__name__
        fill(module, generator)
        if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            module.threshold.fill_(0.6)
        x = torch.randn(ROWS, D_IN, generator=generator)
        f = module.encode(x)
        save(root / kind, x, f, module.decode(f))
        torch.save(module.state_dict(), root / kind / "ae.pt")
        trainer = {"dict_class": kind, "k": 5, "layer": 1, "lm_name": "org/m", "submodule_name": "resid_post_layer_1"}
        (root / kind / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 8}}))


def load(folder: Path) -> None:
    """What SAELens computes from a folder of ours."""
    sae = SAE.load_from_disk(str(folder))
    x = torch.from_numpy(np.load(folder / "x.npy"))
    by_heads = sae.cfg.reshape_activations == "hook_z"
    f = sae.encode(x.reshape(len(x), 4, -1) if by_heads else x)
    y = sae(x) if "skip" in sae.cfg.architecture() else sae.decode(f)
    y = y.reshape(len(x), -1)
    save(folder, x, f, y)
    target = torch.from_numpy(np.load(folder / "target.npy")) if (folder / "target.npy").exists() else x
    if target.shape == y.shape:  # not of a transcoder whose target nobody gave
        explained = ExplainedVarianceCalculator()
        for start in range(0, len(x), 100):
            explained.add_batch(sae_output=y[start : start + 100], hidden_acts=target[start : start + 100])
        (folder / "explained.json").write_text(json.dumps(float(explained.compute())))
    (folder / "metadata.json").write_text(json.dumps(sae.cfg.metadata.to_dict()))


def main() -> None:
    verb, *folders = sys.argv[1:]
    with torch.no_grad():
        if verb == "load":
            for folder in folders:
                load(Path(folder))
            return
        root, generator = Path(folders[0]), torch.Generator().manual_seed(0)
        make_saelens(root / "saelens", generator)
        make_dictionary_learning(root / "dictionary_learning", generator)


if __name__ == "__main__":
    main()

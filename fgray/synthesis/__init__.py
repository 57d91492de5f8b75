"""Synthesis of cases: an object bank of real cut-outs, layouts that carry one attribute, the composer, and a pixel oracle."""

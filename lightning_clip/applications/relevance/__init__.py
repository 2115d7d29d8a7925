"""Relevance: which places of a picture make it similar to a text, and to each of its words."""

from lightning_clip.applications.relevance.relevance import Relevance, relevance, word_relevance
from lightning_clip.applications.relevance.rollout import gradcam, rollout

__all__ = ["Relevance", "gradcam", "relevance", "rollout", "word_relevance"]

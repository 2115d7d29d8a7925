"""Detection by words: boxes around the things in a picture that have one of several names."""

from lightning_clip.applications.detection.detect import Detections, Detector, detect

__all__ = ["Detections", "Detector", "detect"]

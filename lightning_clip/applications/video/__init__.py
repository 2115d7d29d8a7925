"""Videos with a trained model: features, and classification of actions, by a video tower or by an image tower's frames."""

from lightning_clip.applications.video.features import VideoInput, encode_videos, frames_of, pooled_frames
from lightning_clip.applications.video.scores import video_scores

__all__ = ["VideoInput", "encode_videos", "frames_of", "pooled_frames", "video_scores"]

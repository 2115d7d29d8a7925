"""Overlays: areas have the colours of the legend, heat is drawn for each map."""

from __future__ import annotations

import torch

from lightning_clip.reporting.overlays import area_figure, class_colours, heat_figure


def test_areas_have_the_colours_of_their_names() -> None:
    labels = torch.tensor([[0, 0, 2], [2, 2, 255]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    figure = area_figure(torch.zeros(3, 16, 24, dtype=torch.uint8), labels, ["sea", "boat", "sky"])
    cover = figure.axes[1].images[1].get_array()
    colours = class_colours(3)
    assert tuple(cover[0, 0, :3]) == colours[0] and tuple(cover[8, 0, :3]) == colours[2]
    assert cover[0, 0, 3] > 0 and cover[15, 23, 3] == 0
    legend = figure.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["sky  50 %", "sea  33 %"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [colours[2], colours[0]]


def test_nothing_named_has_no_legend() -> None:
    figure = area_figure(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.full((4, 4), 255), ["a", "b"])
    assert figure.axes[1].get_legend() is None


def test_colours_are_told_apart() -> None:
    colours = torch.tensor(class_colours(8))
    distances = torch.cdist(colours, colours) + torch.eye(8)
    assert distances.min() > 0.2


def test_heat_is_drawn_for_each_map() -> None:
    maps = [torch.rand(5, 6, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    figure = heat_figure(torch.zeros(3, 10, 12, dtype=torch.uint8), maps, list("abcde"))
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == list("abcde") and len(figure.axes) == 8
    heat = drawn[2].images[1]
    assert heat.get_array().shape == (5, 6) and heat.get_clim() == (0, float(maps[2].max()))
    heat_figure(torch.zeros(3, 10, 12, dtype=torch.uint8), [torch.zeros(2, 2)], ["nothing"])

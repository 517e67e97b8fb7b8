//! The picture of a simulated swarm: three panels under a title, as SVG.
//!
//! Not here: what a panel shows (`panels`).

use minibit_core::sim::Report;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::panels;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Of drawing into memory: it never happens.
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const WIDTH: u32 = 960;
/// The first line of the title, and each further one.
const TITLE_HEIGHT: (u32, u32) = (38, 20);
const PANEL_HEIGHT: u32 = 320;
/// Above a panel: its name and its legend.
const HEAD_HEIGHT: i32 = 60;
/// Left of all plots, so that their axes stand under each other.
const LEFT: i32 = 20;
/// Of one letter of a legend, about, in parts of its size.
const LETTER: f64 = 0.54;

const FONT: &str = "Helvetica, Arial, sans-serif";
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const FAINT: RGBColor = RGBColor(110, 110, 110);

/// Colours that those who see no red or no green can tell apart (Okabe and Ito).
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const RED: RGBColor = RGBColor(213, 94, 0);
pub(super) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(super) const SKY: RGBColor = RGBColor(86, 180, 233);

/// Draws a swarm under these lines.
pub(super) fn svg(title: &[String], report: &Report) -> String {
    let mut picture = String::new();
    let title_height = TITLE_HEIGHT.0 + TITLE_HEIGHT.1 * title.len().saturating_sub(1) as u32;
    let size = (WIDTH, title_height + 3 * PANEL_HEIGHT);
    let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
    draw(&root, title, title_height, report).expect("memory takes what is drawn");
    drop(root);
    picture
}

fn draw(root: &Area<'_>, title: &[String], title_height: u32, report: &Report) -> Drawn {
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(title_height);
    let mut y = 16;
    for (number, line) in title.iter().enumerate() {
        write(&head, line, (LEFT, y), if number == 0 { 17.0 } else { 13.0 }, INK)?;
        y += if number == 0 { 26 } else { 20 };
    }
    let parts = rest.split_evenly((3, 1));
    panels::completion(&parts[0], report)?;
    panels::availability(&parts[1], report)?;
    panels::exchange(&parts[2], report)
}

/// How a legend shows a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Line,
    Dashes,
    Band,
    Dot,
}

/// Writes the name of a panel and what its colours mean; returns the place for the plot.
pub(super) fn head<'a>(
    panel: &Area<'a>,
    name: &str,
    legend: &[(Mark, RGBColor, String)],
) -> Result<Area<'a>, DrawingAreaErrorKind<std::io::Error>> {
    const SIZE: f64 = 13.0;
    write(panel, name, (LEFT, 14), 15.0, INK)?;
    let (mut x, y) = (LEFT, 38);
    for (mark, color, text) in legend {
        let middle = y + 7;
        match mark {
            Mark::Line | Mark::Dashes => {
                let line = |from: i32, to: i32| {
                    PathElement::new([(from, middle), (to, middle)], color.stroke_width(3))
                };
                if *mark == Mark::Line {
                    panel.draw(&line(x, x + 22))?;
                } else {
                    panel.draw(&line(x, x + 8))?;
                    panel.draw(&line(x + 14, x + 22))?;
                }
            }
            Mark::Band => {
                let corners = [(x, middle - 6), (x + 22, middle + 6)];
                panel.draw(&Rectangle::new(corners, band(*color)))?;
            }
            Mark::Dot => panel.draw(&Circle::new((x + 11, middle), 5, color.filled()))?,
        }
        write(panel, text, (x + 29, y), SIZE, INK)?;
        x += 29 + (text.chars().count() as f64 * SIZE * LETTER) as i32 + 26;
    }
    let (_, plot) = panel.clone().split_vertically(HEAD_HEIGHT);
    Ok(plot)
}

/// A surface of this colour, behind lines.
pub(super) fn band(color: RGBColor) -> ShapeStyle {
    color.mix(0.25).filled()
}

/// Text whose upper left corner is here.
fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: f64, color: RGBColor) -> Drawn {
    let style = font(size, color).pos(Pos::new(HPos::Left, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))
}

/// A font of that many pixels.
pub(super) fn font(size: f64, color: RGBColor) -> TextStyle<'static> {
    // The crate counts from a font's lowest to its highest stroke.
    (FONT, size * 1.24).into_font().color(&color)
}

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
/// Font sizes of the title's first line and of the others.
const TITLE_SIZES: (f64, f64) = (17.0, 13.0);
/// Of the title's first row, and of each further one.
const TITLE_HEIGHT: (u32, u32) = (38, 20);
const PANEL_HEIGHT: u32 = 320;
/// Above a panel: its name and one row of legend.
const HEAD_HEIGHT: i32 = 60;
/// Of each further row.
const ROW_HEIGHT: i32 = 20;
/// Left of all plots, so that their axes stand under each other, and as much is left free at the right.
const LEFT: i32 = 20;
/// From one end of a row of text to the other.
const ROW_WIDTH: i32 = WIDTH as i32 - 2 * LEFT;
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
    let title = title_rows(title);
    let title_height = TITLE_HEIGHT.0 + TITLE_HEIGHT.1 * title.len().saturating_sub(1) as u32;
    let size = (WIDTH, title_height + 3 * PANEL_HEIGHT);
    let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
    draw(&root, &title, title_height, report).expect("memory takes what is drawn");
    drop(root);
    picture
}

fn draw(root: &Area<'_>, title: &[(String, f64)], title_height: u32, report: &Report) -> Drawn {
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(title_height);
    let mut y = 16;
    for (number, (row, size)) in title.iter().enumerate() {
        write(&head, row, (LEFT, y), *size, INK)?;
        y += if number == 0 { 26 } else { TITLE_HEIGHT.1 as i32 };
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

/// The title's lines with their sizes, each broken where the picture has no more room.
fn title_rows(lines: &[String]) -> Vec<(String, f64)> {
    let mut rows = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let size = if number == 0 { TITLE_SIZES.0 } else { TITLE_SIZES.1 };
        rows.extend(broken(line, size).into_iter().map(|row| (row, size)));
    }
    rows
}

/// A line in rows that the picture has room for, broken between words.
fn broken(line: &str, size: f64) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in line.split(' ') {
        let row = rows.last_mut().expect("there is always one");
        if row.is_empty() {
            row.push_str(word);
        } else if width(row, size) + width(" ", size) + width(word, size) <= ROW_WIDTH {
            row.push(' ');
            row.push_str(word);
        } else {
            rows.push(word.to_owned());
        }
    }
    rows
}

/// About how many pixels a text takes: whoever shows the picture chooses the font.
fn width(text: &str, size: f64) -> i32 {
    (text.chars().count() as f64 * size * LETTER).ceil() as i32
}

/// Between a legend's mark and its text, and between that and the next mark.
const LEGEND_GAPS: (i32, i32) = (29, 26);
const LEGEND_SIZE: f64 = 13.0;

/// Where each mark of a legend goes: how far from the left, and in which row. What a row has no room for begins
/// the next one.
fn places(texts: &[&str]) -> Vec<(i32, i32)> {
    let (mut x, mut row) = (0, 0);
    let mut places = Vec::with_capacity(texts.len());
    for text in texts {
        let own = LEGEND_GAPS.0 + width(text, LEGEND_SIZE);
        if x > 0 && x + own > ROW_WIDTH {
            (x, row) = (0, row + 1);
        }
        places.push((x, row));
        x += own + LEGEND_GAPS.1;
    }
    places
}

/// Writes the name of a panel and what its colours mean; returns the place for the plot.
pub(super) fn head<'a>(
    panel: &Area<'a>,
    name: &str,
    legend: &[(Mark, RGBColor, String)],
) -> Result<Area<'a>, DrawingAreaErrorKind<std::io::Error>> {
    write(panel, name, (LEFT, 14), 15.0, INK)?;
    let texts: Vec<&str> = legend.iter().map(|(_, _, text)| text.as_str()).collect();
    let places = places(&texts);
    for ((mark, color, text), (x, row)) in legend.iter().zip(&places) {
        let (x, y) = (LEFT + x, 38 + row * ROW_HEIGHT);
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
        write(panel, text, (x + LEGEND_GAPS.0, y), LEGEND_SIZE, INK)?;
    }
    let more_rows = places.last().map_or(0, |(_, row)| *row);
    let (_, plot) = panel.clone().split_vertically(HEAD_HEIGHT + more_rows * ROW_HEIGHT);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_that_is_too_long_goes_on_in_the_next_row_and_loses_nothing() {
        let line = "10% free riders; 5% large-view free riders; ".repeat(5);
        let rows = broken(line.trim(), 13.0);
        assert!(rows.len() > 1);
        assert_eq!(rows.join(" "), line.trim());
        assert!(rows.iter().all(|row| width(row, 13.0) <= ROW_WIDTH), "{rows:?}");
        assert_eq!(broken("short", 13.0), ["short"]);
        let endless = "x".repeat(1000);
        assert_eq!(broken(&endless, 13.0), [endless], "there is nowhere to break it");
    }

    #[test]
    fn a_legend_that_is_too_long_has_a_second_row() {
        assert_eq!(places(&["one", "two"]).iter().map(|(_, row)| *row).max(), Some(0));
        let texts = ["what some peers do"; 8];
        let places = places(&texts);
        assert_eq!(places.iter().map(|(_, row)| *row).max(), Some(1));
        for ((x, _), text) in places.iter().zip(texts) {
            assert!(x + LEGEND_GAPS.0 + width(text, LEGEND_SIZE) <= ROW_WIDTH, "{places:?}");
        }
    }
}

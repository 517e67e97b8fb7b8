//! The three panels: how the swarm got done, how its pieces spread, what each peer gave and got.

use std::time::Duration;

use minibit_core::sim::{MemberReport, Moment, Report, Role};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::output::units::Time;

use super::plot::{
    Area, BLUE, Drawn, FAINT, GREEN, INK, Mark, ORANGE, PURPLE, RED, SKY, band, font, head,
};

type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Bytes per second of one Mbit/s.
const MBIT: f64 = 125_000.0;
/// An axis goes on a little beyond the last point.
const ROOM: f64 = 1.04;

/// Every role, how it is called and drawn; the first is drawn first.
const ROLES: [(Role, &str, RGBColor); 7] = [
    (Role::Leecher, "honest peers", BLUE),
    (Role::FreeRider, "free riders", ORANGE),
    (Role::Corrupt, "send wrong bytes", RED),
    (Role::Liar, "liars", PURPLE),
    (Role::Drip, "drip", SKY),
    (Role::Flooder, "flood", FAINT),
    (Role::Seeder, "seeders", GREEN),
];

/// The time axis of the first two panels.
struct Clock {
    unit: &'static str,
    seconds: f64,
    end: f64,
}

impl Clock {
    fn of(report: &Report) -> Self {
        let end = report.ended.max(Duration::from_millis(1)).as_secs_f64();
        let (unit, seconds) = match end {
            0.0..180.0 => ("seconds", 1.0),
            180.0..10_800.0 => ("minutes", 60.0),
            _ => ("hours", 3600.0),
        };
        Self { unit, seconds, end: end / seconds }
    }

    fn at(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.seconds
    }
}

/// Shares of the pieces that are there and of the peers that are done, over time.
pub(super) fn completion(panel: &Area<'_>, report: &Report) -> Drawn {
    let clock = Clock::of(report);
    let honest = report.of_role(Role::Leecher).count().max(1) as f64;
    let bound = clock.at(report.lower_bound);
    let mut legend = vec![
        (Mark::Line, BLUE, "pieces that honest peers have".to_owned()),
        (Mark::Line, ORANGE, "honest peers that have all".to_owned()),
    ];
    // A swarm that began with some of the pieces may be done before.
    if bound <= clock.end {
        let text = format!("no swarm is done before {}", Time(report.lower_bound));
        legend.push((Mark::Dashes, FAINT, text));
    }
    let plot = head(panel, "Completion", &legend)?;
    let mut chart = axes(&plot, clock.end, 100.0, clock.unit, "% of the honest")?;
    if bound <= clock.end {
        let ends = [(bound, 0.0), (bound, 100.0 * ROOM)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 5, FAINT.stroke_width(2)))?;
    }
    let mut line = |color: RGBColor, part: &dyn Fn(&Moment) -> f64| {
        let points =
            report.timeline.iter().map(|moment| (clock.at(moment.at), 100.0 * part(moment)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(3))).map(|_| ())
    };
    line(BLUE, &|moment| moment.progress)?;
    line(ORANGE, &|moment| f64::from(moment.done) / honest)
}

/// Copies of a piece among the honest peers that are there, over time.
pub(super) fn availability(panel: &Area<'_>, report: &Report) -> Drawn {
    let clock = Clock::of(report);
    let legend = [
        (Mark::Line, BLUE, "mean".to_owned()),
        (Mark::Band, BLUE, "from the rarest piece to the commonest".to_owned()),
    ];
    let plot = head(panel, "Copies of a piece among the honest peers", &legend)?;
    let most = report.timeline.iter().map(|moment| moment.availability.2).max().unwrap_or(0);
    let mut chart = axes(&plot, clock.end, f64::from(most.max(1)), clock.unit, "copies")?;
    let edge = |copies: &dyn Fn(&Moment) -> u32| -> Vec<(f64, f64)> {
        report.timeline.iter().map(|moment| (clock.at(moment.at), copies(moment).into())).collect()
    };
    let mut outline = edge(&|moment| moment.availability.0);
    outline.extend(edge(&|moment| moment.availability.2).into_iter().rev());
    chart.draw_series([Polygon::new(outline, band(BLUE))])?;
    let mean = report.timeline.iter().map(|moment| (clock.at(moment.at), moment.availability.1));
    chart.draw_series(LineSeries::new(mean, BLUE.stroke_width(3)))?;
    Ok(())
}

/// What each peer sent in a second against what it received.
pub(super) fn exchange(panel: &Area<'_>, report: &Report) -> Drawn {
    let ended = report.ended.as_secs_f64().max(1e-9);
    let sent = |member: &MemberReport| member.uploaded as f64 / ended / MBIT;
    let got = |member: &MemberReport| report.rate(member) / MBIT;
    let there = ROLES.map(|role| (role, report.of_role(role.0).count()));
    let mut legend: Vec<_> = there
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|((_, name, color), _)| (Mark::Dot, *color, (*name).to_owned()))
        .collect();
    legend.push((Mark::Dashes, FAINT, "gets what it gives".to_owned()));
    let plot = head(panel, "What each peer gave and got", &legend)?;
    let most =
        |rate: &dyn Fn(&MemberReport) -> f64| report.members.iter().map(rate).fold(0.001, f64::max);
    let (right, top) = (most(&sent), most(&got));
    let mut chart = axes(
        &plot,
        right,
        top,
        "sent, Mbit/s until the swarm was done",
        "received, Mbit/s until done",
    )?;
    let corner = right.min(top);
    let even = [(0.0, 0.0), (corner, corner)];
    chart.draw_series(DashedLineSeries::new(even, 6, 5, FAINT.stroke_width(1)))?;
    // With many peers the dots lie on each other; where they do it is to be seen.
    let (size, solid) = if report.members.len() > 300 { (3, 0.4) } else { (4, 0.75) };
    for (role, _, color) in ROLES {
        let dots = report.of_role(role).map(|member| {
            Circle::new((sent(member), got(member)), size, color.mix(solid).filled())
        });
        chart.draw_series(dots)?;
    }
    Ok(())
}

/// A plot from zero to these ends, with its axes.
fn axes<'a, 'b>(
    plot: &'b Area<'a>,
    right: f64,
    top: f64,
    below: &str,
    beside: &str,
) -> Result<Chart<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
    let mut chart = ChartBuilder::on(plot)
        .margin_right(30)
        .margin_left(14)
        .margin_bottom(6)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..right * ROOM, 0.0..top * ROOM)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT.mix(0.25))
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .x_labels(9)
        .y_labels(6)
        .x_desc(below)
        .y_desc(beside)
        .label_style(font(12.0, INK))
        .axis_desc_style(font(13.0, INK))
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .draw()?;
    Ok(chart)
}

/// A number of an axis: no longer than it must be.
fn tick(value: &f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_an_axis_have_no_tail() {
        assert_eq!(
            [0.0, 100.0, 2.5, 0.125].map(|value| tick(&value)),
            ["0", "100", "2.5", "0.125"]
        );
    }
}

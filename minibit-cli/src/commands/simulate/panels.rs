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
const ROLES: [(Role, &str, RGBColor); 8] = [
    (Role::Leecher, "honest peers", BLUE),
    (Role::FreeRider, "free riders", ORANGE),
    (Role::LargeView, "large-view free riders", INK),
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
    /// The same in the swarm's time.
    until: Duration,
    /// What stands below the axis.
    below: String,
}

impl Clock {
    fn of(report: &Report) -> Self {
        let until = shown_until(&report.timeline, report.lower_bound, report.ended);
        let end = until.max(Duration::from_millis(1)).as_secs_f64();
        let (unit, seconds) = match end {
            0.0..180.0 => ("seconds", 1.0),
            180.0..10_800.0 => ("minutes", 60.0),
            _ => ("hours", 3600.0),
        };
        let below = if until < report.ended {
            format!("{unit}; nobody gets anything more until the end after {}", Time(report.ended))
        } else {
            unit.to_owned()
        };
        Self { unit, seconds, end: end / seconds, until, below }
    }

    /// What is drawn of the swarm's time, to the end of the axis.
    fn shown(&self, report: &Report) -> Vec<Moment> {
        let shown = report.timeline.iter().take_while(|moment| moment.at <= self.until);
        let mut shown: Vec<Moment> = shown.copied().collect();
        shown.extend(shown.last().map(|last| Moment { at: self.until, ..*last }));
        shown
    }

    fn at(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.seconds
    }
}

/// How much of a swarm's time is worth showing: where it waited in vain at its end, that would take the room of all
/// that came before.
fn shown_until(timeline: &[Moment], bound: Duration, ended: Duration) -> Duration {
    let standing = |moment: &Moment| (moment.progress, moment.done);
    let news = timeline.windows(2).rev().find(|pair| standing(&pair[0]) != standing(&pair[1]));
    let last = news.map_or(ended, |pair| pair[1].at.max(bound));
    let enough = last + last / 4;
    // A little less than all is no gain.
    if enough * 2 < ended { enough } else { ended }
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
        // As the axis below has it, where the eye looks it up.
        let text = format!("no swarm is done before {} {}", rounded(bound), clock.unit);
        legend.push((Mark::Dashes, FAINT, text));
    }
    let plot = head(panel, "Completion", &legend)?;
    let mut chart = axes(&plot, clock.end, 100.0, &clock.below, "% of the honest")?;
    if bound <= clock.end {
        dashes(&mut chart, (bound, 0.0), (bound, 100.0 * ROOM), FAINT.stroke_width(2))?;
    }
    let shown = clock.shown(report);
    let mut line = |color: RGBColor, part: &dyn Fn(&Moment) -> f64| {
        let points = shown.iter().map(|moment| (clock.at(moment.at), 100.0 * part(moment)));
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
    let mut chart = axes(&plot, clock.end, f64::from(most.max(1)), &clock.below, "copies")?;
    let shown = clock.shown(report);
    let edge = |copies: &dyn Fn(&Moment) -> u32| -> Vec<(f64, f64)> {
        shown.iter().map(|moment| (clock.at(moment.at), copies(moment).into())).collect()
    };
    let mut outline = edge(&|moment| moment.availability.0);
    outline.extend(edge(&|moment| moment.availability.2).into_iter().rev());
    chart.draw_series([Polygon::new(outline, band(BLUE))])?;
    let mean = shown.iter().map(|moment| (clock.at(moment.at), moment.availability.1));
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
    let most = |rate: &dyn Fn(&MemberReport) -> f64| {
        report.members.iter().map(rate).fold(0.0001, f64::max)
    };
    let (right, top) = (most(&sent), most(&got));
    let mut chart = axes(
        &plot,
        right,
        top,
        "sent, Mbit/s until the swarm was done",
        "received, Mbit/s until done",
    )?;
    let corner = right.min(top);
    dashes(&mut chart, (0.0, 0.0), (corner, corner), FAINT.stroke_width(1))?;
    for (role, _, color) in ROLES {
        // Where many dots lie on each other it is to be seen; a few must not get lost.
        let (size, solid) = if report.of_role(role).count() > 300 { (3, 0.4) } else { (4, 0.75) };
        let dots = report.of_role(role).map(|member| {
            Circle::new((sent(member), got(member)), size, color.mix(solid).filled())
        });
        chart.draw_series(dots)?;
    }
    Ok(())
}

/// A dashed line. Each dash has its place on the line: a series of dashes that is drawn one after the other, each
/// from where the last one ended, strays from it by what is lost in whole pixels.
fn dashes(chart: &mut Chart<'_, '_>, from: (f64, f64), to: (f64, f64), style: ShapeStyle) -> Drawn {
    /// Pixels of a dash and the gap after it, about, and the dash's part of them.
    const STEP: f64 = 11.0;
    const DASH: f64 = 0.55;
    let ((x0, y0), (x1, y1)) = (chart.backend_coord(&from), chart.backend_coord(&to));
    let length = f64::from(x1 - x0).hypot(f64::from(y1 - y0));
    let count = (length / STEP).max(1.0) as u32;
    let at = |part: f64| (from.0 + part * (to.0 - from.0), from.1 + part * (to.1 - from.1));
    let part = |dash: f64| at(dash / f64::from(count));
    let dash = |number: u32| [part(number.into()), part(f64::from(number) + DASH)];
    chart.draw_series((0..count).map(|number| PathElement::new(dash(number), style)))?;
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
        .y_label_area_size(78)
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

/// A number of an axis: no longer than it must be, and no shorter where rates are low.
fn tick(value: &f64) -> String {
    shortest(&format!("{value:.6}"))
}

/// A number beside an axis, to be looked up there.
fn rounded(value: f64) -> String {
    shortest(&if value < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") })
}

/// Without zeros that say nothing.
fn shortest(number: &str) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_swarm_waits_in_vain_for_long_the_picture_ends_before() {
        let moment = |second, progress| Moment {
            at: Duration::from_secs(second),
            progress,
            done: 0,
            availability: (0, 0.0, 0),
        };
        let until = |timeline: &[Moment], ended| {
            shown_until(timeline, Duration::from_secs(4), Duration::from_secs(ended)).as_secs()
        };
        let waits = [moment(0, 0.0), moment(4, 0.5), moment(8, 0.6), moment(100, 0.6)];
        assert_eq!(until(&waits, 100), 10);
        assert_eq!(until(&waits[..3], 8), 8, "done");
        assert_eq!(until(&waits[..3], 12), 12, "hardly waited");
        assert_eq!(until(&[moment(0, 0.0), moment(9, 0.0)], 9), 9, "nothing ever came");
    }

    #[test]
    fn numbers_of_an_axis_have_no_tail() {
        assert_eq!(
            [0.0, 100.0, 2.5, 0.125, 0.0002, 0.1 + 0.2].map(|value| tick(&value)),
            ["0", "100", "2.5", "0.125", "0.0002", "0.3"]
        );
        assert_eq!([0.010_49, 2.9125, 83.88, 120.0].map(rounded), ["0.01", "2.913", "83.9", "120"]);
    }
}

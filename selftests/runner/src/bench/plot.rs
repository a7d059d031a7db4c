//! Charts as SVG: bars on a logarithmic axis, and panels of lines.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours of the series without, and with, receive coalescing.
const COLOURS: [RGBColor; 2] = [RGBColor(0xd9, 0x82, 0x2b), RGBColor(0x2f, 0x6d, 0xb3)];
const KEYS: [&str; 2] = ["without receive coalescing", "with receive coalescing"];
const DARK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const WIDTH: u32 = 860;
const MIDDLE: Pos = Pos {
    h_pos: HPos::Center,
    v_pos: VPos::Top,
};

/// A point of a panel: its place on the horizontal axis, and its value.
pub(super) struct Dot {
    /// Position on the horizontal axis, and its label.
    pub(super) place: (f64, String),
    pub(super) gro: bool,
    pub(super) value: f64,
}

/// Draws a bar chart: a pair of bars for each name, without and with receive coalescing.
pub(super) fn bars(title: &str, axis: &str, bars: &[(&str, bool, f64)]) -> Result<String> {
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in bars {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let values = || bars.iter().map(|bar| bar.2.max(1e-6));
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
    // A little less, so that the axis has a label there.
    let low = 10f64.powf(low) * 0.999;
    let range = (low..10f64.powf(high)).log_scale();
    picture(144 + 46 * names.len() as u32, title, |area| {
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(46)
            .y_label_area_size(300)
            .margin_right(70)
            .build_cartesian_2d(range, names.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|value| format_short(*value))
            .label_style(font(15))
            .x_desc(axis)
            .draw()?;
        let text = |text: &str, at, side, h_pos, size| {
            let pos = Pos::new(h_pos, VPos::Center);
            EmptyElement::at(at) + Text::new(text.to_owned(), (side, 3), font(size).pos(pos))
        };
        for (at, name) in names.iter().enumerate() {
            let at = at as f64;
            chart.draw_series([text(name, (low, at + 0.5), -10, HPos::Right, 16)])?;
            for (_, gro, value) in bars.iter().filter(|bar| bar.0 == *name) {
                let top = at + if *gro { 0.5 } else { 0.1 };
                let bar = [(low, top), (value.max(low), top + 0.36)];
                let colour = COLOURS[usize::from(*gro)].filled();
                chart.draw_series([Rectangle::new(bar, colour)])?;
                let at = (value.max(low), top + 0.18);
                chart.draw_series([text(&format_short(*value), at, 6, HPos::Left, 15)])?;
            }
        }
        Ok(())
    })
}

/// Draws panels side by side, with the same positions on their horizontal axes.
pub(super) fn panels(title: &str, x: &str, panels: &[(&str, &[Dot])]) -> Result<String> {
    picture(390, title, |area| {
        let areas = area.split_evenly((1, panels.len().max(1)));
        for (area, (y, dots)) in areas.iter().zip(panels) {
            panel(area, x, y, dots)?;
        }
        Ok(())
    })
}

fn panel(area: &Area, x_label: &str, y_label: &str, dots: &[Dot]) -> Result<()> {
    let mut places: Vec<(f64, &str)> = Vec::new();
    for dot in dots {
        let place = (dot.place.0, dot.place.1.as_str());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by(|one, other| one.0.total_cmp(&other.0));
    let most = dots.iter().map(|dot| dot.value).fold(1e-9, f64::max) * 1.05;
    area.draw_text(y_label, &font(16), (16, 4))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_right(24)
        .x_label_area_size(54)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.5..places.len() as f64 - 0.5, 0.0..most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(6)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .y_label_formatter(&|value| format_short(*value))
        .label_style(font(15))
        .x_desc(x_label)
        .draw()?;
    chart.draw_series(places.iter().enumerate().map(|(at, (_, name))| {
        let name = Text::new((*name).to_owned(), (0, 8), font(15).pos(MIDDLE));
        EmptyElement::at((at as f64, 0.0)) + name
    }))?;
    for gro in [false, true] {
        let of = |place: f64| {
            let mut dots = dots.iter();
            dots.find(|dot| dot.gro == gro && dot.place.0 == place)
        };
        let line = places.iter().enumerate();
        let line = line.filter_map(|(at, place)| Some((at as f64, of(place.0)?.value)));
        let colour = COLOURS[usize::from(gro)].filled();
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(4))?;
    }
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Makes an SVG picture with a title, a legend of the colours, and what `draw` draws below.
fn picture(height: u32, title: &str, draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw_text(title, &font(25), (16, 14))?;
    for (at, key) in (0..).zip(KEYS) {
        let x = 60 + 220 * at;
        let colour = COLOURS[at as usize].filled();
        area.draw(&Rectangle::new([(x, 50), (x + 12, 62)], colour))?;
        area.draw_text(key, &font(16), (x + 18, 50))?;
    }
    draw(&area.margin(74, 0, 0, 0))?;
    area.present()?;
    drop(area);
    Ok(svg)
}

fn font(size: u32) -> TextStyle<'static> {
    ("system-ui, sans-serif", size).into_font().color(&DARK)
}

/// Formats a number in the shortest way.
fn format_short(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 0.1 => 3,
        middle if middle < 1.0 => 2,
        large if large < 10.0 => 2,
        large if large < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.05, 0.5, 1.0, 2.25, 10.0, 41.79, 1234.5].map(format_short);
        assert_eq!(all, ["0", "0.05", "0.5", "1", "2.25", "10", "41.8", "1234"]);
    }

    /// Returns the values of an attribute of all SVG elements of a colour.
    fn attribute_values(svg: &str, colour: &str, attribute: &str) -> Vec<String> {
        let lines = svg.lines().filter(|line| line.contains(colour));
        let value = |line: &str| {
            let (_, rest) = line.split_once(&format!("{attribute}=\""))?;
            Some(rest.split('"').next()?.to_owned())
        };
        lines.filter_map(value).collect()
    }

    #[test]
    fn a_longer_bar_is_more() {
        let svg = bars("<t>", "a", &[("one", false, 0.5), ("two", true, 40.0)]).unwrap();
        let width = |colour| {
            attribute_values(&svg, colour, "width")[1]
                .parse::<u32>()
                .unwrap()
        };
        assert!(width("#2F6DB3") > 2 * width("#D9822B"), "{svg}");
        assert!(svg.contains("&lt;t") && svg.contains("</svg>"), "{svg}");
    }

    #[test]
    fn a_curve_follows_the_order_of_its_places() {
        let dot = |place: f64, value| Dot {
            place: (place, place.to_string()),
            gro: true,
            value,
        };
        let svg = panels("t", "x", &[("y", &[dot(4.0, 2.0), dot(1.0, 1.0)])]).unwrap();
        let line = attribute_values(&svg, "#2F6DB3", "points").remove(0);
        let points = line.split_whitespace().map(|point| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        });
        let points: Vec<(u32, u32)> = points.collect();
        assert!(points.len() == 2, "{svg}");
        assert!(
            points[0].0 < points[1].0 && points[0].1 > points[1].1,
            "{svg}"
        );
    }
}

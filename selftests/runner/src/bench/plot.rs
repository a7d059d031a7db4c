//! Pictures, as SVG: bars on a logarithmic axis, and panels of lines.

use std::fmt::Write;

/// With receive coalescing, and without.
const COLOURS: [&str; 2] = ["#d9822b", "#2f6db3"];
const KEYS: [&str; 2] = ["without receive coalescing", "with receive coalescing"];
const WIDTH: f64 = 860.0;

/// A value at a place of the horizontal axis.
pub(super) struct Dot {
    /// Where, in the order of the first, and how that is called.
    pub(super) place: (f64, String),
    pub(super) gro: bool,
    pub(super) value: f64,
}

/// A pair of bars for each name, without and with receive coalescing.
pub(super) fn bars(title: &str, axis: &str, bars: &[(&str, bool, f64)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in bars {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let (left, right, top, row) = (310.0, 70.0, 84.0, 46.0);
    let bottom = top + row * names.len() as f64;
    let values = || bars.iter().map(|bar| bar.2.max(1e-6));
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
    let x =
        |value: f64| left + (value.max(1e-6).log10() - low) / (high - low) * (WIDTH - left - right);
    let mut svg = Svg::new(bottom + 60.0, title);
    svg.keys(left);
    let mut decade = low;
    while decade <= high {
        let value = 10f64.powf(decade);
        svg.line((x(value), top), (x(value), bottom), "grid");
        svg.text((x(value), bottom + 18.0), "middle", "tick", &short(value));
        decade += 1.0;
    }
    for (at, name) in names.iter().enumerate() {
        let y = top + row * at as f64 + 5.0;
        svg.text((left - 10.0, y + 22.0), "end", "name", name);
        for (_, gro, value) in bars.iter().filter(|bar| bar.0 == *name) {
            let y = y + if *gro { 18.0 } else { 0.0 };
            svg.bar((left, y), (x(*value) - left, 16.0), *gro);
            svg.text((x(*value) + 6.0, y + 12.5), "start", "tick", &short(*value));
        }
    }
    svg.line((left, top), (left, bottom), "axis");
    svg.text(
        ((left + WIDTH - right) / 2.0, bottom + 42.0),
        "middle",
        "label",
        axis,
    );
    svg.end()
}

/// Panels side by side, with the same places on their horizontal axes.
pub(super) fn panels(title: &str, x: &str, panels: &[(&str, &[Dot])]) -> String {
    let mut svg = Svg::new(390.0, title);
    svg.keys(60.0);
    let width = WIDTH / panels.len().max(1) as f64;
    for (at, (y, dots)) in panels.iter().enumerate() {
        panel(&mut svg, width * at as f64, width, (x, y), dots);
    }
    svg.end()
}

fn panel(svg: &mut Svg, from: f64, width: f64, (x_label, y_label): (&str, &str), dots: &[Dot]) {
    let (left, right, top, bottom) = (from + 60.0, from + width - 24.0, 104.0, 326.0);
    let mut places: Vec<(f64, &str)> = Vec::new();
    for dot in dots {
        let place = (dot.place.0, dot.place.1.as_str());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by(|one, other| one.0.total_cmp(&other.0));
    let step = (right - left) / places.len().max(1) as f64;
    let at = |dot: &Dot| {
        let place = places.iter().position(|it| it.0 == dot.place.0);
        left + step * (place.unwrap_or(0) as f64 + 0.5)
    };
    let tick = tick(dots.iter().map(|dot| dot.value).fold(0.0, f64::max));
    let most = dots
        .iter()
        .map(|dot| (dot.value / tick).ceil())
        .fold(1.0, f64::max)
        * tick;
    let y = |value: f64| bottom - value / most * (bottom - top);

    svg.text((left - 44.0, top - 16.0), "start", "label", y_label);
    let mut value = 0.0;
    while value <= most + tick / 2.0 {
        let class = if value == 0.0 { "axis" } else { "grid" };
        svg.line((left, y(value)), (right, y(value)), class);
        svg.text((left - 8.0, y(value) + 4.0), "end", "tick", &short(value));
        value += tick;
    }
    for (number, (_, name)) in places.iter().enumerate() {
        let x = left + step * (number as f64 + 0.5);
        svg.text((x, bottom + 18.0), "middle", "tick", name);
    }
    svg.text(
        ((left + right) / 2.0, bottom + 40.0),
        "middle",
        "label",
        x_label,
    );
    for gro in [false, true] {
        let mut of: Vec<&Dot> = dots.iter().filter(|dot| dot.gro == gro).collect();
        of.sort_by(|one, other| one.place.0.total_cmp(&other.place.0));
        let line: Vec<_> = of.iter().map(|dot| (at(dot), y(dot.value))).collect();
        svg.curve(&line, gro);
    }
}

/// The distance of four or five lines up to a value: 1, 2 or 5 by a power of ten.
fn tick(most: f64) -> f64 {
    let rough = most.max(1e-9) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * power);
    let fits = steps.into_iter().rfind(|step| *step <= rough);
    fits.unwrap_or(power)
}

/// As short as it can be said.
fn short(value: f64) -> String {
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

/// A picture under way.
struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" font-family=\"system-ui, sans-serif\">\n\
             <style>.title{{font-size:20px;font-weight:600;fill:#222}}\
             .name{{font-size:14px;fill:#222}}.label{{font-size:13px;fill:#555}}\
             .tick{{font-size:12px;fill:#555}}.grid{{stroke:#e4e4e4}}.axis{{stroke:#888}}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        ));
        svg.text((16.0, 32.0), "start", "title", title);
        svg
    }

    /// What the colours stand for.
    fn keys(&mut self, mut x: f64) {
        for (at, key) in KEYS.into_iter().enumerate() {
            self.bar((x, 50.0), (12.0, 12.0), at == 1);
            self.text((x + 18.0, 60.5), "start", "label", key);
            x += 220.0;
        }
    }

    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), gro: bool) {
        let colour = COLOURS[usize::from(gro)];
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"2\" fill=\"{colour}\"/>"
        ));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    /// A line through points, each with a dot.
    fn curve(&mut self, points: &[(f64, f64)], gro: bool) {
        let colour = COLOURS[usize::from(gro)];
        let path = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} "));
        let path: String = path.collect();
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.trim_end()
        ));
        for (x, y) in points {
            self.put(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
            ));
        }
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let _infallible = writeln!(self.0, "{element}");
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (most, expected) in [
            (4.0, 1.0),
            (10.0, 2.0),
            (105.0, 20.0),
            (0.9, 0.2),
            (250.0, 50.0),
        ] {
            let tick = tick(most);
            assert!((tick - expected).abs() < 1e-9, "{most}: {tick}");
        }
        assert!(tick(0.0) > 0.0);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.05, 0.5, 1.0, 2.25, 10.0, 41.79, 1234.5].map(short);
        assert_eq!(all, ["0", "0.05", "0.5", "1", "2.25", "10", "41.8", "1234"]);
    }

    #[test]
    fn a_longer_bar_is_more() {
        let svg = bars("<t>", "a", &[("one", false, 0.5), ("two", true, 40.0)]);
        let width = |colour: &str| -> f64 {
            let bar = svg
                .lines()
                .filter(|line| line.contains(colour))
                .nth(1)
                .unwrap();
            let (_, rest) = bar.split_once("width=\"").unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        assert!(width(COLOURS[1]) > 2.0 * width(COLOURS[0]), "{svg}");
        assert!(svg.contains("&lt;t>") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_curve_follows_the_order_of_its_places() {
        let dot = |place: f64, value| Dot {
            place: (place, place.to_string()),
            gro: true,
            value,
        };
        let svg = panels("t", "x", &[("y", &[dot(4.0, 2.0), dot(1.0, 1.0)])]);
        let line = svg
            .lines()
            .find(|line| line.contains("points=\"") && line.contains(','));
        let (_, rest) = line.unwrap().split_once("points=\"").unwrap();
        let xs = rest.split('"').next().unwrap().split(' ');
        let xs: Vec<f64> = xs
            .filter_map(|it| it.split(',').next()?.parse().ok())
            .collect();
        assert!(xs.len() == 2 && xs[0] < xs[1], "{xs:?}");
    }
}

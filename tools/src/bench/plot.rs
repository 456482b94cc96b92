//! Standings as a plot: cycles for each object against the bulk, a panel for each work, a line for each
//! contestant.
//!
//! SVG by hand: lines and words are all that there is, and a crate for plots would be larger than the
//! program.

use std::fmt::{self, Write};

use super::standings::Standing;

/// Of a panel's drawing area.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 280.0;
/// Around it, for words.
const LEFT: f64 = 70.0;
const ABOVE: f64 = 40.0;
const BELOW: f64 = 60.0;
/// A panel with all.
const PANEL: (f64, f64) = (LEFT + WIDTH + 20.0, ABOVE + HEIGHT + BELOW);
const TITLE: f64 = 70.0;
const LEGEND_LINE: f64 = 22.0;

/// Told apart also by those who see few colours (Okabe and Ito), then again with dashes.
const COLOURS: [&str; 7] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A plot of all standings, two panels in a row, with the legend below.
pub(super) fn svg(title: &str, machine: &str, unit: &str, standings: &[Standing]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in standings.iter().flat_map(|standing| &standing.names) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = draw(&mut text, [title, machine, unit], standings, &names);
    text
}

fn draw(
    to: &mut String,
    [title, machine, unit]: [&str; 3],
    standings: &[Standing],
    names: &[&str],
) -> fmt::Result {
    let rows = standings.len().div_ceil(2) as f64;
    let (width, legend) = (2.0 * PANEL.0, TITLE + rows * PANEL.1);
    let height = legend + names.len().div_ceil(4) as f64 * LEGEND_LINE + 20.0;
    writeln!(
        to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(to, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
    writeln!(to, "<text x=\"20\" y=\"28\" font-size=\"18\">{}</text>", escaped(title))?;
    for (line, part) in machine.split("; ").enumerate() {
        writeln!(to, "<text x=\"20\" y=\"{}\" fill=\"#555555\">{}</text>", 48 + 16 * line, escaped(part))?;
    }
    for (number, standing) in standings.iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * PANEL.0, TITLE + (number / 2) as f64 * PANEL.1);
        writeln!(to, "<g transform=\"translate({} {})\">", x + LEFT, y + ABOVE)?;
        panel(to, standing, unit, names)?;
        writeln!(to, "</g>")?;
    }
    for (number, name) in names.iter().enumerate() {
        let (x, y) = (20.0 + (number % 4) as f64 * 245.0, legend + (number / 4) as f64 * LEGEND_LINE);
        let style = style(number);
        writeln!(to, "<path d=\"M{x} {y}h36\" {style}/>")?;
        writeln!(to, "<text x=\"{}\" y=\"{}\">{}</text>", x + 44.0, y + 4.0, escaped(name))?;
    }
    writeln!(to, "</svg>")
}

fn panel(to: &mut String, standing: &Standing, unit: &str, names: &[&str]) -> fmt::Result {
    let bulks = standing.setting.bulks;
    let cycles = |name: &str| -> Vec<(usize, f64)> {
        let point = |(place, &bulk)| Some((place, standing.median(name, bulk)?));
        bulks.iter().enumerate().filter_map(point).collect()
    };
    let all = standing.names.iter().flat_map(|name| cycles(name)).map(|(_, cycles)| cycles.max(0.01).log10());
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(one), high.max(one)));
    let (low, high) = if low > high { (0.0, 1.0) } else { (low - 0.05, high + 0.05) };
    let x = |place: usize| (place as f64 + 0.5) * WIDTH / bulks.len() as f64;
    let y = |log: f64| HEIGHT * (high - log) / (high - low);

    writeln!(to, "<text y=\"-12\" font-size=\"15\">{}</text>", escaped(standing.setting.name))?;
    writeln!(to, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888888\"/>")?;
    for exponent in low.floor() as i32..=high.ceil() as i32 {
        for digit in [1.0, 2.0, 5.0] {
            let cycles = digit * 10f64.powi(exponent);
            let log = cycles.log10();
            if (low..=high).contains(&log) {
                let at = y(log);
                writeln!(to, "<path d=\"M0 {at:.1}h{WIDTH}\" stroke=\"#dddddd\"/>")?;
                writeln!(to, "<text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{cycles}</text>", at + 4.0)?;
            }
        }
    }
    for (place, bulk) in bulks.iter().enumerate() {
        let at = x(place);
        writeln!(to, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{bulk}</text>", HEIGHT + 18.0)?;
    }
    let (middle, below) = (WIDTH / 2.0, HEIGHT + 38.0);
    writeln!(to, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">objects in a bulk</text>")?;
    writeln!(
        to,
        "<text transform=\"translate(-52 {}) rotate(-90)\" text-anchor=\"middle\">{} for each object</text>",
        HEIGHT / 2.0,
        escaped(unit)
    )?;
    for (number, name) in names.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            cycles(name).iter().map(|&(place, cycles)| (x(place), y(cycles.max(0.01).log10()))).collect();
        if points.is_empty() {
            continue;
        }
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(to, "<g><title>{}</title>", escaped(name))?;
        writeln!(to, "<polyline points=\"{}\" {}/>", line.join(" "), style(number))?;
        let colour = COLOURS[number % COLOURS.len()];
        for (x, y) in points {
            writeln!(to, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
        }
        writeln!(to, "</g>")?;
    }
    Ok(())
}

/// How the line of contestant `number` is drawn.
fn style(number: usize) -> String {
    let dashes = ["none", "6 4", "2 3"][(number / COLOURS.len()).min(2)];
    let colour = COLOURS[number % COLOURS.len()];
    format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"")
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node};

    use super::super::standings::tests::{SETTINGS, standings};
    use super::*;

    fn words(node: Node<'_, '_>) -> Vec<String> {
        let named =
            node.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
        named.filter_map(|node| node.text().map(str::to_owned)).collect()
    }

    #[test]
    fn it_is_xml_and_has_every_contestant_work_and_bulk() {
        let (standings, _) = standings();
        let text = svg("pools & rings", "a <machine>; versions", "TSC cycles", &standings);
        let document = Document::parse(&text).unwrap();
        let words = words(document.root());
        let expected = [
            "pools & rings",
            "a <machine>",
            "versions",
            "ours",
            "peer",
            "&other",
            "1 core",
            "a <pair>",
            "2",
            "4",
        ];
        for word in expected {
            assert!(words.iter().any(|one| one == word), "{word} is not in {words:?}");
        }
        let lines = document.descendants().filter(|node| node.tag_name().name() == "polyline");
        let points: Vec<usize> =
            lines.map(|line| line.attribute("points").unwrap().split(' ').count()).collect();
        // Three contestants at two bulks, two at one.
        assert_eq!(points, [2, 2, 2, 1, 1]);
        assert_eq!(words.iter().filter(|word| **word == SETTINGS[0].name).count(), 1);
    }

    #[test]
    fn more_cycles_are_drawn_higher_within_the_panel() {
        let (standings, _) = standings();
        let text = svg("t", "m", "cycles", &standings);
        let document = Document::parse(&text).unwrap();
        let line = document.descendants().find(|node| node.tag_name().name() == "polyline").unwrap();
        let heights: Vec<f64> = line
            .attribute("points")
            .unwrap()
            .split(' ')
            .map(|point| point.split_once(',').unwrap().1.parse().unwrap())
            .collect();
        assert!(heights[1] < heights[0] && heights.iter().all(|height| (0.0..=HEIGHT).contains(height)));
    }
}

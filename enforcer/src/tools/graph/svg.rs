//! The picture as SVG, for light and dark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    EdgeState, Graph, Node, escaped,
    layout::{Layout, Spot, layout, to_f64},
};
use crate::tools::parties::GroupKind;

/// Around everything.
const MARGIN: f64 = 36.0;
/// Width of a character of the widest monospaced font that is met, at 13 pixels.
const CHARACTER: f64 = 8.4;
/// Height of a line of text.
const LINE: f64 = 18.0;
/// Longest line in a box, in characters; what is longer is in the tooltip as a whole.
const LONGEST: usize = 36;
/// Height of the legend.
const LEGEND: f64 = 44.0;
/// With more arrows than these, what they allow is only in their tooltips.
const MOST_LABELS: usize = 24;
/// Between the layers, without and with room for such texts.
const LAYER_GAPS: [f64; 2] = [110.0, 210.0];

/// Colours as text on the picture's own ground: contrast of 4.5 and more, in light and dark, and
/// apart by dashes too. Programs that know no custom properties take the light ones, which are
/// written first.
pub(super) const STYLE: &str = "
.enforcer-graph{--ground:#ffffff;--ink:#1b1f24;--soft:#57606a;--box:#f6f8fa;--line:#8c959f;\
--allowed:#0550ae;--used:#116329;--unused:#8a5a00;--open:#6639ba;--denied:#b3151f;\
font:13px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}
@media (prefers-color-scheme:dark){.enforcer-graph{--ground:#0d1117;--ink:#e6edf3;--soft:#9da7b1;\
--box:#161b22;--line:#6e7681;--allowed:#79b8ff;--used:#56d364;--unused:#e3b341;--open:#c4a7ff;\
--denied:#ff8a80}}
.enforcer-graph .ground{fill:#ffffff;fill:var(--ground)}
.enforcer-graph text{fill:#1b1f24;fill:var(--ink)}
.enforcer-graph .soft{fill:#57606a;fill:var(--soft);font-size:11px}
.enforcer-graph .box{fill:#f6f8fa;fill:var(--box);stroke:#8c959f;stroke:var(--line);stroke-width:1.2}
.enforcer-graph .host .box,.enforcer-graph .network .box,.enforcer-graph .world .box{fill:#ffffff;fill:var(--ground)}
.enforcer-graph .isopen .box{stroke-dasharray:5 4}
.enforcer-graph .allowed path{stroke:#0550ae}.enforcer-graph .allowed .head,.enforcer-graph .allowed text{fill:#0550ae}
.enforcer-graph .used path{stroke:#116329}.enforcer-graph .used .head,.enforcer-graph .used text{fill:#116329}
.enforcer-graph .unused path{stroke:#8a5a00}.enforcer-graph .unused .head,.enforcer-graph .unused text{fill:#8a5a00}
.enforcer-graph .open path{stroke:#6639ba}.enforcer-graph .open .head,.enforcer-graph .open text{fill:#6639ba}
.enforcer-graph .denied path{stroke:#b3151f}.enforcer-graph .denied .head,.enforcer-graph .denied text{fill:#b3151f}
.enforcer-graph .edge path{fill:none;stroke-width:1.6;stroke:var(--c)}
.enforcer-graph .edge .head{fill:var(--c);stroke:none}
.enforcer-graph .edge .wide{stroke:transparent;stroke-width:9}
.enforcer-graph .edge text{font-size:11px;fill:var(--c);paint-order:stroke;stroke:#ffffff;stroke:var(--ground);\
stroke-width:4px;stroke-linejoin:round}
.enforcer-graph .allowed{--c:var(--allowed)}.enforcer-graph .used{--c:var(--used)}
.enforcer-graph .unused{--c:var(--unused)}.enforcer-graph .open{--c:var(--open)}
.enforcer-graph .denied{--c:var(--denied)}
.enforcer-graph .unused path.line{stroke-dasharray:7 5}
.enforcer-graph .open path.line{stroke-dasharray:9 3 2 3}
.enforcer-graph .denied path.line{stroke-dasharray:2 4;stroke-width:2.2}
.enforcer-graph .dim{opacity:.12}
";

/// The picture, complete in itself.
pub fn svg(graph: &Graph) -> String {
    let boxes: Vec<Vec<(String, bool)>> = graph.nodes.iter().map(lines).collect();
    let sizes = sizes(graph, &boxes);
    let pairs: BTreeSet<(usize, usize)> = graph.edges.iter().map(|e| (e.from, e.to)).collect();
    let layout = layout(&sizes, &pairs, LAYER_GAPS[usize::from(has_labels(graph))]);
    let states: BTreeSet<EdgeState> = graph.edges.iter().map(|e| e.state).collect();
    let legend = legend(&states);
    // Arrows that turn at the side of a box stand out by this much.
    let turn = 56.0;
    let width = (layout.width + 2.0 * (MARGIN + turn)).max(legend.1 + 2.0 * MARGIN);
    let height = layout.height + 2.0 * MARGIN + LEGEND + 20.0;
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"enforcer-graph\" role=\"img\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n\
         <title>Who may reach whom</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
         <g transform=\"translate({MARGIN} {MARGIN})\">{}</g>\n\
         <g transform=\"translate({} {})\">\n",
        legend.0,
        MARGIN + turn,
        MARGIN + LEGEND
    );
    write_edges(&mut out, graph, &layout);
    for (index, (node, lines)) in graph.nodes.iter().zip(&boxes).enumerate() {
        write_node(&mut out, index, node, lines, layout.nodes[index]);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// The lines of a box, and whether they are small.
fn lines(node: &Node) -> Vec<(String, bool)> {
    let mut lines = vec![(shortened(&node.name), false)];
    if node.kind == GroupKind::Network {
        lines.push(("network".to_owned(), true));
    }
    let open = match (node.open_ingress, node.open_egress) {
        (true, true) => "open both ways",
        (true, false) => "open ingress",
        (false, true) => "open egress",
        (false, false) => "",
    };
    if !open.is_empty() {
        lines.push((open.to_owned(), true));
    }
    if !node.from_everybody.is_empty() {
        let text = format!("from all: {}", node.from_everybody.join(" "));
        lines.push((shortened(&text), true));
    }
    lines
}

/// The beginning and the end of what is too long.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= LONGEST {
        return text.to_owned();
    }
    let half = (LONGEST - 1) / 2;
    let start: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(count - half).collect();
    format!("{start}…{end}")
}

/// Boxes have room for their texts, and for the arrows at their sides.
fn sizes(graph: &Graph, boxes: &[Vec<(String, bool)>]) -> Vec<(f64, f64)> {
    let mut ends = vec![[0_usize; 2]; boxes.len()];
    for edge in &graph.edges {
        ends[edge.from][0] += 1;
        ends[edge.to][1] += 1;
    }
    let step = if has_labels(graph) { 9.0 } else { 5.0 };
    let sizes = boxes.iter().zip(ends).map(|(lines, [out, into])| {
        let (width, height) = size(lines);
        (width, height.max(to_f64(out + into) * step + 14.0))
    });
    sizes.collect()
}

fn size(lines: &[(String, bool)]) -> (f64, f64) {
    let width = lines.iter().map(|(text, small)| {
        let count = to_f64(text.chars().count());
        count * CHARACTER * if *small { 11.0 / 13.0 } else { 1.0 }
    });
    let width = width.fold(40.0, f64::max) + 24.0;
    (width, to_f64(lines.len()) * LINE + 14.0)
}

fn write_node(out: &mut String, index: usize, node: &Node, lines: &[(String, bool)], spot: Spot) {
    let kind = match node.kind {
        GroupKind::Workload => "workload",
        GroupKind::Host => "host",
        GroupKind::Network => "network",
        GroupKind::World => "world",
    };
    let open = if node.open_ingress && node.open_egress {
        " isopen"
    } else {
        ""
    };
    let (left, top) = (spot.x - spot.width / 2.0, spot.y - spot.height / 2.0);
    let radius = if node.kind == GroupKind::Workload {
        6.0
    } else {
        spot.height / 2.0
    };
    let mut tooltip = node.name.clone();
    if node.members.len() > 1 {
        let _ = write!(tooltip, "\n{}", node.members.join("\n"));
    }
    if !node.from_everybody.is_empty() {
        let _ = write!(
            tooltip,
            "\nfrom everybody: {}",
            node.from_everybody.join(", ")
        );
    }
    let _ = write!(
        out,
        "<g class=\"node {kind}{open}\" data-node=\"{index}\" tabindex=\"0\"><title>{}</title>\
         <rect class=\"box\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{radius:.1}\"/>",
        escaped(&tooltip),
        spot.width,
        spot.height,
    );
    for (row, (text, small)) in lines.iter().enumerate() {
        let y = spot.y + LINE * (to_f64(row) - to_f64(lines.len()) / 2.0 + 0.72);
        let class = if *small { " class=\"soft\"" } else { "" };
        let _ = write!(
            out,
            "<text{class} x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
            spot.x,
            escaped(text)
        );
    }
    out.push_str("</g>\n");
}

/// A pair of nodes, and whether the target's end of its arrow is meant.
type End = (usize, usize, bool);

/// Where arrows leave and enter a box: each its own point, in the order of where they go.
struct Ports {
    /// Height of the point.
    at: BTreeMap<End, f64>,
}

impl Ports {
    fn new(layout: &Layout) -> Self {
        // By box and side (false: left), the ends there with the height of the next point.
        let mut ends: BTreeMap<(usize, bool), Vec<(f64, End)>> = BTreeMap::new();
        for ((from, to), way) in &layout.ways {
            let (a, b) = (layout.nodes[*from], layout.nodes[*to]);
            let first = way.first().map_or(b.y, |p| p.1);
            let last = way.last().map_or(a.y, |p| p.1);
            let (out_right, in_right) = sides(a, b);
            ends.entry((*from, out_right))
                .or_default()
                .push((first, (*from, *to, false)));
            ends.entry((*to, in_right))
                .or_default()
                .push((last, (*from, *to, true)));
        }
        let mut at = BTreeMap::new();
        for ((node, _), mut ends) in ends {
            ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let spot = layout.nodes[node];
            let room = spot.height - 14.0;
            let step = room / to_f64(ends.len());
            for (place, (_, end)) in ends.iter().enumerate() {
                at.insert(*end, spot.y - room / 2.0 + step * (to_f64(place) + 0.5));
            }
        }
        Self { at }
    }
}

/// Whether an arrow leaves at the right side, and whether it enters at the right side. In one
/// layer, it goes around at the right.
fn sides(a: Spot, b: Spot) -> (bool, bool) {
    if (a.x - b.x).abs() < 1.0 {
        (true, true)
    } else {
        (a.x < b.x, a.x > b.x)
    }
}

fn write_edges(out: &mut String, graph: &Graph, layout: &Layout) {
    let ports = Ports::new(layout);
    let mut labels = String::new();
    let mut drawn: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let with_labels = has_labels(graph);
    // Denials on top.
    for edge in &graph.edges {
        let pair = (edge.from, edge.to);
        // Several states of one pair lie beside each other.
        let shift = drawn.entry(pair).or_insert(0.0);
        let offset = *shift;
        *shift += 5.0;
        let (a, b) = (layout.nodes[edge.from], layout.nodes[edge.to]);
        let (out_right, in_right) = sides(a, b);
        let side =
            |spot: Spot, right: bool| spot.x + if right { spot.width } else { -spot.width } / 2.0;
        let end = |target: bool| ports.at.get(&(edge.from, edge.to, target)).copied();
        let start = (side(a, out_right), end(false).unwrap_or(a.y) + offset);
        let tip = (side(b, in_right), end(true).unwrap_or(b.y) + offset);
        // The line ends where the head begins.
        let back = if in_right { 7.0 } else { -7.0 };
        let mut points = vec![start];
        let way = layout.ways.get(&pair).map_or(&[][..], Vec::as_slice);
        points.extend(way.iter().map(|(x, y)| (*x, y + offset)));
        points.push((tip.0 + back, tip.1));
        let (path, mark) = curve(&points, out_right, in_right);
        let head = format!("M{:.1} {:.1}l{back:.1} -4.5v9z", tip.0, tip.1);
        let names = |i: usize| &*graph.nodes[i].name;
        let mut tooltip = format!(
            "{} → {}\n{}: {}",
            names(edge.from),
            names(edge.to),
            edge.state.words(),
            edge.services.join(", ")
        );
        if let Some(seen) = &edge.seen {
            let _ = write!(tooltip, "\nseen {} times", seen.records);
        }
        let _ = write!(
            out,
            "<g class=\"edge {}\" data-from=\"{}\" data-to=\"{}\"><title>{}</title>\
             <path class=\"wide\" d=\"{path}\"/><path class=\"line\" d=\"{path}\"/>\
             <path class=\"head\" d=\"{head}\"/>",
            edge.state.name(),
            edge.from,
            edge.to,
            escaped(&tooltip)
        );
        if with_labels {
            let text = label(&edge.services);
            let _ = writeln!(
                labels,
                "<g class=\"edge {}\" data-from=\"{}\" data-to=\"{}\">\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></g>",
                edge.state.name(),
                edge.from,
                edge.to,
                mark.0,
                mark.1 - 3.0,
                escaped(&text)
            );
        }
        out.push_str("</g>\n");
    }
    // Over all arrows.
    out.push_str(&labels);
}

fn has_labels(graph: &Graph) -> bool {
    graph.edges.len() <= MOST_LABELS
}

/// What an arrow allows, in short: a port before a ping.
fn label(services: &[String]) -> String {
    let is_port = |service: &&String| service.ends_with("/tcp") || service.ends_with("/udp");
    let first = services.iter().find(is_port).or(services.first());
    let first = first.cloned().unwrap_or_default();
    match services.len() {
        0 | 1 => first,
        count => format!("{first} +{}", count - 1),
    }
}

/// A smooth line through points, level at each of them, and a point on it nearer to its
/// beginning than to its end, so that texts of two opposite arrows do not meet.
fn curve(points: &[(f64, f64)], out_right: bool, in_right: bool) -> (String, (f64, f64)) {
    let sign = |right: bool| if right { 1.0 } else { -1.0 };
    let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
    let last = points.len() - 2;
    let mut mark = points[0];
    for (place, pair) in points.windows(2).enumerate() {
        let ((x1, y1), (x2, y2)) = (pair[0], pair[1]);
        let straight = ((x2 - x1).abs() / 2.0).max(if out_right == in_right { 46.0 } else { 20.0 });
        // Between the ends, lines go on the way that they came.
        let forward = if x2 >= x1 { 1.0 } else { -1.0 };
        let first = if place == 0 { sign(out_right) } else { forward };
        let second = if place == last {
            sign(in_right)
        } else {
            -forward
        };
        let (c1, c2) = (x1 + first * straight, x2 + second * straight);
        let _ = write!(path, "C{c1:.1} {y1:.1} {c2:.1} {y2:.1} {x2:.1} {y2:.1}");
        if place == 0 {
            // The cubic's point at 0.3.
            let at = |p: [f64; 4]| 0.343 * p[0] + 0.441 * p[1] + 0.189 * p[2] + 0.027 * p[3];
            mark = (at([x1, c1, c2, x2]), at([y1, y1, y2, y2]));
        }
    }
    (path, mark)
}

/// The legend and its width.
fn legend(states: &BTreeSet<EdgeState>) -> (String, f64) {
    let mut out = String::new();
    let mut x = 0.0;
    for state in EdgeState::ALL.iter().filter(|state| states.contains(state)) {
        let words = state.words();
        let _ = write!(
            out,
            "<g class=\"edge {}\" transform=\"translate({x:.1} 8)\"><path class=\"line\" d=\"M0 0H36\"/>\
             <path class=\"head\" d=\"M44 0l-8 -4.5v9z\"/></g>\
             <text x=\"{:.1}\" y=\"12\" font-size=\"12\">{words}</text>",
            state.name(),
            x + 52.0
        );
        x += 52.0 + to_f64(words.len()) * CHARACTER + 28.0;
    }
    (out, x)
}

//! The picture as a page of its own, with the same as a table.

use std::fmt::Write;

use super::{Graph, escaped, svg::svg};

const STYLE: &str = "
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de}
@media (prefers-color-scheme:dark){:root{--ground:#0d1117;--ink:#e6edf3;--soft:#9da7b1;--rule:#30363d}}
body{margin:0;padding:1.5rem;background:var(--ground);color:var(--ink);\
font:15px system-ui,sans-serif}
h1{font-size:1.3rem;margin:0 0 .25rem}p{margin:.25rem 0 1rem;color:var(--soft)}
.picture{overflow:auto;border:1px solid var(--rule);border-radius:8px}
.picture svg{display:block}
input{font:inherit;padding:.4rem .6rem;margin:1rem 0 .5rem;width:min(24rem,100%);\
box-sizing:border-box;color:inherit;background:var(--ground);border:1px solid var(--rule);border-radius:6px}
.table{overflow-x:auto}
table{border-collapse:collapse;min-width:100%}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--rule);\
vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600}
.node{cursor:pointer}
";

/// Points at a node to see only its arrows; a click keeps that. Text in the field filters the
/// table.
const SCRIPT: &str = "
const all=s=>[...document.querySelectorAll(s)];let kept=null;
const edges=all('.picture .edge[data-from]'),nodes=all('.picture .node'),rows=all('tbody tr');
function show(n){const near=new Set([n]);
edges.forEach(e=>{const{from,to}=e.dataset,mine=n===null||from===n||to===n;
if(mine){near.add(from);near.add(to)}e.classList.toggle('dim',!mine)});
nodes.forEach(e=>e.classList.toggle('dim',n!==null&&!near.has(e.dataset.node)))}
nodes.forEach(e=>{const n=e.dataset.node;
e.addEventListener('mouseenter',()=>show(n));e.addEventListener('mouseleave',()=>show(kept));
e.addEventListener('focus',()=>show(n));e.addEventListener('blur',()=>show(kept));
e.addEventListener('click',()=>{kept=kept===n?null:n;show(kept)})});
document.querySelector('input').addEventListener('input',e=>{
const words=e.target.value.toLowerCase().split(/\\s+/);
rows.forEach(r=>r.hidden=!words.every(w=>r.textContent.toLowerCase().includes(w)))});
";

/// The page. It loads nothing.
pub fn html(graph: &Graph) -> String {
    let mut out = String::new();
    let count =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Who may reach whom</title>\n<style>{STYLE}</style>\n\
         <h1>Who may reach whom</h1>\n<p>{}, {}. Point at a group to see its arrows alone; \
         click to keep it so.</p>\n<div class=\"picture\">{}</div>\n\
         <input type=\"search\" placeholder=\"Filter: shop/db denied\" aria-label=\"Filter the table\">\n\
         <div class=\"table\"><table>\n<thead><tr><th>From<th>To<th>Services<th>What<th>Seen</tr></thead>\n<tbody>\n",
        count(graph.nodes.len(), "group"),
        count(graph.edges.len(), "arrow"),
        svg(graph),
    );
    for edge in &graph.edges {
        let seen = edge
            .seen
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escaped(&graph.nodes[edge.from].name),
            escaped(&graph.nodes[edge.to].name),
            escaped(&edge.services.join(", ")),
            edge.state.words(),
            escaped(&seen)
        );
    }
    for node in graph.nodes.iter().filter(|n| !n.from_everybody.is_empty()) {
        let _ = writeln!(
            out,
            "<tr><td>everybody<td>{}<td>{}<td>allowed by a rule<td></tr>",
            escaped(&node.name),
            escaped(&node.from_everybody.join(", "))
        );
    }
    let _ = write!(
        out,
        "</tbody></table></div>\n<script>{SCRIPT}</script>\n</html>\n"
    );
    out
}

//! Where nodes and arrows go: layers from left to right (Sugiyama's way). Arrows that pass
//! layers get a place of their own in each, so that they go around nodes and not through them.

use std::collections::{BTreeMap, BTreeSet};

/// Between nodes of a layer.
const NODE_GAP: f64 = 26.0;
/// Room that an arrow takes in a layer that it passes.
const LANE: f64 = 12.0;
/// More layers than these are folded together: the picture would be a ribbon.
const MOST_LAYERS: usize = 7;
/// Sweeps that put nodes beside their neighbours.
const SWEEPS: usize = 16;

/// A box or an arrow's place in a layer. `x`, `y` is its middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spot {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

pub(super) struct Layout {
    /// By node.
    pub nodes: Vec<Spot>,
    /// By pair of nodes, in the order given: the points between both boxes.
    pub ways: BTreeMap<(usize, usize), Vec<(f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

/// Places boxes of these sizes and arrows between them, with a gap between the layers.
pub(super) fn layout(
    sizes: &[(f64, f64)],
    pairs: &BTreeSet<(usize, usize)>,
    layer_gap: f64,
) -> Layout {
    let layers_of = layers(sizes.len(), pairs);
    // Items: the nodes, then the places of arrows in layers that they pass.
    let mut layer: Vec<usize> = layers_of.clone();
    let mut size: Vec<(f64, f64)> = sizes.to_vec();
    let mut chains: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    let mut links: Vec<(usize, usize)> = Vec::new();
    for (from, to) in pairs {
        let (a, b) = (layers_of[*from], layers_of[*to]);
        let mut chain = vec![*from];
        let between: Vec<usize> = if a < b {
            (a + 1..b).collect()
        } else {
            (b + 1..a).rev().collect()
        };
        for passed in between {
            chain.push(layer.len());
            layer.push(passed);
            size.push((0.0, LANE));
        }
        chain.push(*to);
        links.extend(chain.windows(2).map(|pair| (pair[0], pair[1])));
        chains.insert((*from, *to), chain);
    }
    let count = layer.iter().max().map_or(0, |last| last + 1);
    let mut order: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (item, layer) in layer.iter().enumerate() {
        order[*layer].push(item);
    }
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); layer.len()];
    for (a, b) in links {
        neighbours[a].push(b);
        neighbours[b].push(a);
    }
    let y = heights(&mut order, &layer, &neighbours, &size);

    let mut x_of_layer = Vec::new();
    let mut x = 0.0;
    for items in &order {
        let widest = items.iter().map(|i| size[*i].0).fold(0.0, f64::max);
        x_of_layer.push(x + widest / 2.0);
        x += widest + layer_gap;
    }
    let top = (0..y.len())
        .map(|i| y[i] - size[i].1 / 2.0)
        .fold(f64::INFINITY, f64::min);
    let top = if top.is_finite() { top } else { 0.0 };
    let bottom = (0..y.len())
        .map(|i| y[i] + size[i].1 / 2.0)
        .fold(top, f64::max);
    let spot = |item: usize| Spot {
        x: x_of_layer[layer[item]],
        y: y[item] - top,
        width: size[item].0,
        height: size[item].1,
    };
    let ways = chains.into_iter().map(|(pair, chain)| {
        let inner = &chain[1..chain.len() - 1];
        (
            pair,
            inner.iter().map(|i| (spot(*i).x, spot(*i).y)).collect(),
        )
    });
    Layout {
        nodes: (0..sizes.len()).map(spot).collect(),
        ways: ways.collect(),
        width: (x - layer_gap).max(0.0),
        height: bottom - top,
    }
}

/// The layer of every node: one more than that of whoever opens to it, where that makes no
/// circle.
fn layers(count: usize, pairs: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let mut outgoing: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut balance: Vec<i64> = vec![0; count];
    for (from, to) in pairs {
        outgoing[*from].push(*to);
        balance[*from] += 1;
        balance[*to] -= 1;
    }
    // Who opens much and is opened little comes first; arrows against this order go back.
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|node| (std::cmp::Reverse(balance[*node]), *node));
    let mut rank = vec![0; count];
    for (place, node) in order.iter().enumerate() {
        rank[*node] = place;
    }
    let mut layer = vec![0_usize; count];
    for node in &order {
        for to in &outgoing[*node] {
            if rank[*to] > rank[*node] {
                layer[*to] = layer[*to].max(layer[*node] + 1);
            }
        }
    }
    let last = layer.iter().copied().max().unwrap_or(0);
    if last >= MOST_LAYERS {
        for layer in &mut layer {
            *layer = *layer * (MOST_LAYERS - 1) / last;
        }
    }
    spread_lonely(&mut layer, pairs);
    layer
}

/// Nodes without arrows would all stand in the first layer.
fn spread_lonely(layer: &mut [usize], pairs: &BTreeSet<(usize, usize)>) {
    let count = layer.iter().copied().max().unwrap_or(0) + 1;
    let busy: BTreeSet<usize> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let mut filled = vec![0_usize; count.max(if busy.is_empty() { 4 } else { count })];
    for node in &busy {
        filled[layer[*node]] += 1;
    }
    for node in (0..layer.len()).filter(|node| !busy.contains(node)) {
        let emptiest = (0..filled.len()).min_by_key(|i| filled[*i]).unwrap_or(0);
        filled[emptiest] += 1;
        layer[node] = emptiest;
    }
}

/// The middle of every item, from top to bottom, each as near to its neighbours as those of its
/// layer allow.
fn heights(
    order: &mut [Vec<usize>],
    layer: &[usize],
    neighbours: &[Vec<usize>],
    size: &[(f64, f64)],
) -> Vec<f64> {
    let mut y = vec![0.0; layer.len()];
    for items in &*order {
        stack(items, size, &mut y);
    }
    for sweep in 0..SWEEPS {
        let forward = sweep % 2 == 0;
        let layers: Vec<usize> = if forward {
            (0..order.len()).collect()
        } else {
            (0..order.len()).rev().collect()
        };
        for at in layers {
            // At the end both sides count, so that arrows become straight.
            let counts = |other: usize| {
                let other = layer[other];
                other != at && (sweep >= SWEEPS / 2 || (other < at) == forward)
            };
            let wish: Vec<f64> = (0..y.len())
                .map(|item| {
                    if layer[item] != at {
                        return 0.0;
                    }
                    let near: Vec<f64> = neighbours[item]
                        .iter()
                        .filter(|n| counts(**n))
                        .map(|n| y[*n])
                        .collect();
                    mean(&near).unwrap_or(y[item])
                })
                .collect();
            order[at].sort_by(|a, b| wish[*a].total_cmp(&wish[*b]).then(a.cmp(b)));
            settle(&order[at], size, &wish, &mut y);
        }
    }
    y
}

/// One below the other, around 0.
fn stack(items: &[usize], size: &[(f64, f64)], y: &mut [f64]) {
    let mut at = 0.0;
    for item in items {
        y[*item] = at + size[*item].1 / 2.0;
        at += size[*item].1 + gap(size[*item]);
    }
    for item in items {
        y[*item] -= at / 2.0;
    }
}

fn gap((width, _): (f64, f64)) -> f64 {
    if width > 0.0 { NODE_GAP } else { 4.0 }
}

/// Puts items, in their order, as near to their wishes as they fit: neighbours that would
/// overlap become a block around the mean of their wishes.
fn settle(items: &[usize], size: &[(f64, f64)], wish: &[f64], y: &mut [f64]) {
    struct Block {
        items: Vec<usize>,
        /// Sum of the tops that the block's items wish it had.
        tops: f64,
        height: f64,
    }
    impl Block {
        fn top(&self) -> f64 {
            self.tops / to_f64(self.items.len())
        }
    }
    let mut blocks: Vec<Block> = Vec::new();
    for item in items {
        let height = size[*item].1 + gap(size[*item]);
        let mut block = Block {
            items: vec![*item],
            tops: wish[*item] - size[*item].1 / 2.0,
            height,
        };
        while let Some(above) = blocks.pop_if(|above| above.top() + above.height > block.top()) {
            block.tops = above.tops + block.tops - above.height * to_f64(block.items.len());
            block.height += above.height;
            block.items.splice(0..0, above.items);
        }
        blocks.push(block);
    }
    for block in blocks {
        let mut at = block.top();
        for item in &block.items {
            y[*item] = at + size[*item].1 / 2.0;
            at += size[*item].1 + gap(size[*item]);
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / to_f64(values.len()))
}

/// A count as a coordinate: pictures have no more than millions of anything.
pub(super) fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_never_touch_and_arrows_pass_beside_them() {
        let mut random = 1_u64;
        let mut next = |most: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(random >> 33).unwrap() % most
        };
        for count in [0, 1, 2, 7, 30, 60] {
            let sizes: Vec<_> = (0..count).map(|i| (80.0 + to_f64(i), 40.0)).collect();
            let pairs = (0..count * 4).map(|_| (next(count.max(1)), next(count.max(1))));
            let pairs: BTreeSet<_> = pairs.filter(|(a, b)| a != b && *a < count).collect();
            let layout = layout(&sizes, &pairs, 100.0);
            assert_eq!(
                (layout.nodes.len(), layout.ways.len()),
                (count, pairs.len())
            );
            for (i, a) in layout.nodes.iter().enumerate() {
                assert!(a.x - a.width / 2.0 >= -0.01 && a.x + a.width / 2.0 <= layout.width + 0.01);
                assert!(
                    a.y - a.height / 2.0 >= -0.01 && a.y + a.height / 2.0 <= layout.height + 0.01
                );
                for b in &layout.nodes[i + 1..] {
                    let apart = (a.x - b.x).abs() * 2.0 >= a.width + b.width
                        || (a.y - b.y).abs() * 2.0 >= a.height + b.height;
                    assert!(apart, "{a:?} {b:?}");
                }
                for (x, y) in layout.ways.values().flatten() {
                    let inside =
                        (x - a.x).abs() < a.width / 2.0 && (y - a.y).abs() < a.height / 2.0;
                    assert!(!inside, "an arrow through {a:?}");
                }
            }
        }
    }
}

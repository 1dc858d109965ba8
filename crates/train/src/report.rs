//! How a training went, to look at: a plot in the terminal and a page of HTML that needs nothing
//! else.

use std::fmt::Write;

use crate::curve::{Point, PointKind};
use crate::recipe::Recipe;
use crate::run::Plan;

/// Points are drawn as means of about this many groups: a curve is to be read, not counted.
const MAX_POINTS: usize = 400;

/// What of a point is drawn.
type Read<'a> = &'a dyn Fn(&Point) -> Option<f64>;

/// A plot in braille dots, with its highest and lowest value beside it; empty without values.
pub fn terminal_plot(values: &[f64], (columns, rows): (usize, usize)) -> String {
    const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.is_empty() || columns == 0 || rows == 0 {
        return String::new();
    }
    let means = means(&values, columns * 2);
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let n_dots = rows * 4;
    let mut cells = vec![vec![0_u32; columns]; rows];
    for (dot_column, mean) in means.iter().enumerate() {
        let height = if high > low { (mean - low) / (high - low) } else { 0.5 };
        let from_top = ((1.0 - height) * (n_dots - 1) as f64).round() as usize;
        cells[from_top / 4][dot_column / 2] |= DOTS[dot_column % 2][from_top % 4];
    }
    let mut plot = String::new();
    for (row_idx, row) in cells.iter().enumerate() {
        let label = match row_idx {
            0 => format!("{high:>9.4}"),
            last if last + 1 == rows => format!("{low:>9.4}"),
            _ => " ".repeat(9),
        };
        let cell = |bits: &u32| char::from_u32(0x2800 + bits).unwrap_or(' ');
        let line: String = row.iter().map(cell).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(plot, "{label} {line}");
    }
    plot
}

/// Means of at most `n_groups` groups of neighbours.
fn means(values: &[f64], n_groups: usize) -> Vec<f64> {
    let n_groups = n_groups.min(values.len()).max(1);
    (0..n_groups)
        .map(|group| {
            let start = group * values.len() / n_groups;
            let end = ((group + 1) * values.len() / n_groups).max(start + 1);
            values[start..end].iter().sum::<f64>() / (end - start) as f64
        })
        .collect()
}

/// A page with every stage's curves and the recipe.
pub(crate) fn html(recipe: &Recipe, plan: &Plan, points: &[Point]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n<title>{name}: training</title>\n\
         <style>\nbody{{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;\
         color:#1b1b1b;background:#fff}}\n@media(prefers-color-scheme:dark){{body{{color:#e8e8e8;\
         background:#161616}}}}\nsvg{{width:100%;height:auto}} table{{border-collapse:collapse}} \
         td,th{{padding:.15rem .8rem .15rem 0;text-align:left}}\npre{{overflow:auto}}\n\
         .learned{{stroke:#3b6fd4}} .held{{stroke:#d4663b}} .axis{{stroke:currentColor;opacity:.3}}\n\
         polyline{{fill:none;stroke-width:2}} text{{fill:currentColor;font-size:12px}}\n</style>\n\
         <h1>{name}</h1>\n<p>{parameters} trained parameters on {base}, seed {seed}.</p>\n",
        name = escaped(&recipe.name),
        parameters = plan.n_parameters,
        base = escaped(&recipe.base),
        seed = recipe.seed,
    );
    for (stage_idx, stage) in plan.stages.iter().enumerate() {
        let of_stage: Vec<&Point> = points.iter().filter(|p| p.stage_idx == stage_idx).collect();
        let _ = write!(
            page,
            "<h2>Stage {number}: {method}</h2>\n<table><tr><th>rows<th>held out<th>too long<th>steps\
             <th>tokens<th>learned tokens<tr><td>{rows}<td>{held}<td>{long}<td>{done} of {steps}\
             <td>{tokens}<td>{targets}</table>\n",
            number = stage_idx + 1,
            method = stage.method.name(),
            rows = stage.n_rows,
            held = stage.n_held_out,
            long = stage.n_too_long,
            done = of_stage.iter().filter(|p| p.kind == PointKind::Step).count(),
            steps = stage.n_steps,
            tokens = stage.n_tokens,
            targets = stage.n_targets,
        );
        let series = |kind: PointKind, of: Read<'_>| -> Vec<(f64, f64)> {
            let chosen = of_stage.iter().filter(|point| point.kind == kind);
            chosen.filter_map(|point| Some((point.step as f64, of(point)?))).collect()
        };
        let plots: [(&str, Read<'_>); 7] = [
            ("Loss (orange: held out)", &|point| {
                (point.kind == PointKind::Step || point.reward.is_none()).then_some(point.loss)
            }),
            ("What replies are worth (orange: to held-out prompts)", &|point| point.reward),
            ("Distance from the reference, a token (k3)", &|point| point.kl),
            ("Margin of the chosen reply", &|point| point.margin),
            ("Pairs the right way round", &|point| point.accuracy),
            ("Gradient norm before clipping", &|point| {
                (point.kind == PointKind::Step).then_some(point.gradient_norm)
            }),
            ("Busiest expert, in even shares", &|point| {
                (point.kind == PointKind::Step).then_some(point.busiest_expert)
            }),
        ];
        for (title, of) in plots {
            page += &svg(title, &series(PointKind::Step, of), &series(PointKind::HeldOut, of));
        }
    }
    let recipe = serde_json::to_string_pretty(recipe).unwrap_or_default();
    let _ = writeln!(page, "<h2>Recipe</h2>\n<pre>{}</pre>\n</html>", escaped(&recipe));
    page
}

/// One plot with its axes' ends; nothing without points.
fn svg(title: &str, learned: &[(f64, f64)], held_out: &[(f64, f64)]) -> String {
    const WIDTH: f64 = 800.0;
    const HEIGHT: f64 = 220.0;
    const MARGIN: f64 = 60.0;
    let all = || learned.iter().chain(held_out).filter(|(_, y)| y.is_finite());
    if all().next().is_none() {
        return String::new();
    }
    let least = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
    let (left, right, low, high) = (least(|p| p.0), most(|p| p.0), least(|p| p.1), most(|p| p.1));
    let place = |(x, y): (f64, f64)| {
        let across = if right > left { (x - left) / (right - left) } else { 0.5 };
        let up = if high > low { (y - low) / (high - low) } else { 0.5 };
        (MARGIN + across * (WIDTH - MARGIN - 10.0), HEIGHT - 25.0 - up * (HEIGHT - 50.0))
    };
    let line = |points: &[(f64, f64)], class: &str| {
        let xs: Vec<f64> = points.iter().map(|point| point.0).collect();
        let ys: Vec<f64> = points.iter().map(|point| point.1).collect();
        if points.is_empty() {
            return String::new();
        }
        let groups = means(&xs, MAX_POINTS).into_iter().zip(means(&ys, MAX_POINTS));
        let path = groups.map(place).fold(String::new(), |mut path, (x, y)| {
            let _ = write!(path, "{x:.1},{y:.1} ");
            path
        });
        format!("<polyline class=\"{class}\" points=\"{}\"/>", path.trim_end())
    };
    format!(
        "<h3>{title}</h3>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}: from \
         {first:.4} to {last:.4}\">\n<line class=\"axis\" x1=\"{MARGIN}\" y1=\"{bottom}\" x2=\"{WIDTH}\" \
         y2=\"{bottom}\"/>\n<text x=\"0\" y=\"29\">{high:.4}</text><text x=\"0\" y=\"{bottom}\">{low:.4}\
         </text><text x=\"{MARGIN}\" y=\"{HEIGHT}\">step {left}</text><text x=\"{WIDTH}\" y=\"{HEIGHT}\" \
         text-anchor=\"end\">{right}</text>\n{learned_line}{held_line}\n</svg>\n",
        first = all().next().map_or(0.0, |point| point.1),
        last = learned.last().or(held_out.last()).map_or(0.0, |point| point.1),
        bottom = HEIGHT - 25.0,
        learned_line = line(learned, "learned"),
        held_line = line(held_out, "held"),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_falls_where_the_values_fall() {
        let values: Vec<f64> = (0..40).map(|i| 4.0 - 0.1 * f64::from(i)).collect();
        let plot = terminal_plot(&values, (5, 2));
        assert!(plot.starts_with("   3.8500 ") && plot.contains("\n   0.2500 "), "{plot}");
        // Ten dots in a straight line from the top left to the bottom right.
        let dots: Vec<char> =
            plot.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).collect();
        assert_eq!(dots.iter().map(|c| (*c as u32 - 0x2800).count_ones()).sum::<u32>(), 10);
        let rows: Vec<&str> = plot.lines().collect();
        assert!(rows[0].ends_with('\u{2800}') && rows[1][10..].starts_with('\u{2800}'), "{plot}");
        assert_eq!(terminal_plot(&[], (5, 2)), "");
        assert_eq!(terminal_plot(&[f64::NAN], (5, 2)), "");
        assert_eq!(terminal_plot(&[1.0], (3, 1)).lines().count(), 1);
    }

    #[test]
    fn groups_keep_the_mean_and_the_ends() {
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        let means = means(&values, 10);
        assert_eq!(means.len(), 10);
        assert!((means[0] - 49.5).abs() < 1e-9 && (means[9] - 949.5).abs() < 1e-9);
        assert_eq!(super::means(&[3.0], 10), [3.0]);
    }

    #[test]
    fn names_cannot_write_markup() {
        assert_eq!(escaped("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}

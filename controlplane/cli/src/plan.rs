//! `understudy plan` and `understudy reload`, for people.

use understudy_api::{Change, Effect, Plan};

use crate::text::{Table, plain};

const NOTHING: &str = "(none)";

pub fn text(plan: &Plan) -> String {
    let file = plain(&plan.file);
    if plan.changes.is_empty() {
        return format!("{file}: nothing differs from what runs\n");
    }
    let mut table = Table::new(&[">LINE", "FIELD", "RUNS", "FILE", "EFFECT"]);
    for change in &plan.changes {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| NOTHING.into());
        table.row(vec![
            change.line.to_string(),
            change.field.clone(),
            value(&change.from),
            value(&change.to),
            effect(change.effect).into(),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out, "");
    let refused: Vec<&Change> =
        plan.changes.iter().filter(|change| change.effect != Effect::Live).collect();
    for change in &refused {
        let (field, why) = (plain(&change.field), plain(&change.why));
        out.push_str(&format!("{field}: {why}; {}\n", change.effect.what_to_do()));
    }
    out.push_str(&match (plan.applied, refused.len()) {
        (true, _) => format!("{file}: applied\n"),
        (false, 0) => format!("{file}: a reload applies it, and interrupts nothing\n"),
        (false, n) => format!("{file}: a reload would be refused, for {n} of these\n"),
    });
    out
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Live => "live",
        Effect::Restart => "restart",
        Effect::Group => "group",
    }
}

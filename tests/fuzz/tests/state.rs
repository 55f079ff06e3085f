//! What a node keeps on disk across its lives.

use understudy_fuzz::{corpus_file, fuzz, mutated};
use understudy_proto::Persisted;

#[test]
fn epoch_files() {
    let read = |node| std::fs::read(corpus_file(&format!("epoch-{node}"))).expect("recorded");
    let mut seeds: Vec<_> = ["a", "b", "c"].map(read).into();
    assert!(seeds.iter().all(|seed| Persisted::decode(seed).is_some()));
    seeds.push(Persisted { epoch: u64::MAX, voted_for: Some(u16::MAX) }.encode().into_bytes());
    let whole = seeds.clone();
    let mut changed = 0;
    fuzz("epoch file", 1, |rng| {
        let bytes = mutated(rng, &seeds);
        // A wrong epoch could elect two primaries: only what was written is read.
        match Persisted::decode(&bytes) {
            Some(state) => assert_eq!(state.encode().into_bytes(), bytes),
            None => {
                assert!(!whole.contains(&bytes));
                changed += 1;
            }
        }
    });
    println!("{changed} damaged files were refused");
}

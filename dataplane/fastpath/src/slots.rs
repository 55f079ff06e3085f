//! Places for a bounded number of things, each of which keeps its own.
//!
//! A place is first used when all before it are taken: what was never used is neither touched nor looked at, so that
//! going through all costs what they are and not what they might be.

/// Room for so many; the memory is reserved when it is made.
pub struct Slots<T> {
    used: Vec<Option<T>>,
    free: Vec<u32>,
    capacity: usize,
}

impl<T> Slots<T> {
    /// Room for `capacity` of them.
    pub fn new(capacity: usize) -> Slots<T> {
        let (used, free) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        Slots { used, free, capacity }
    }

    /// Puts one into a place, if there is any.
    pub fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            self.used[slot as usize] = Some(value);
            return Some(slot);
        }
        let slot = self.used.len();
        (slot < self.capacity).then(|| {
            self.used.push(Some(value));
            slot as u32
        })
    }

    /// Whether every place is taken.
    pub fn is_full(&self) -> bool {
        self.free.is_empty() && self.used.len() == self.capacity
    }

    /// Takes what is there.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.used.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    /// What is there.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.used.get(slot as usize)?.as_ref()
    }

    /// What is there, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.used.get_mut(slot as usize)?.as_mut()
    }

    /// Places that were ever used; they are the first ones.
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// All there are.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.used.iter().flatten()
    }

    /// All there are, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.used.iter_mut().flatten()
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.used.clear();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_and_only_those_that_were_used_are_looked_at() {
        let mut slots = Slots::new(3);
        let places: Vec<_> = "abcd".chars().map(|c| slots.insert(c)).collect();
        assert_eq!(places, [Some(0), Some(1), Some(2), None]);
        assert_eq!((slots.remove(1), slots.remove(1), slots.remove(9)), (Some('b'), None, None));
        assert_eq!(slots.iter().collect::<String>(), "ac");
        assert_eq!((slots.insert('e'), slots.insert('f')), (Some(1), None));
        slots.iter_mut().for_each(|c| c.make_ascii_uppercase());
        assert_eq!((slots.get(1), slots.get(2), slots.get(3)), (Some(&'E'), Some(&'C'), None));
        slots.clear();
        assert_eq!((slots.used(), slots.insert('g')), (0, Some(0)));
        assert_eq!(slots.used(), 1);
    }
}

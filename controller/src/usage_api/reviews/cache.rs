//! Answers by question, each kept for its time, bounded in number; a question is asked by one at a time.

use super::{FAILED, NO, Unasked, YES};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use tokio::time::Instant;

/// Answers.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    places: Mutex<HashMap<K, Place<V>>>,
    max: usize,
}

/// Where an answer is kept. Whoever asks holds it meanwhile; if he leaves, the next one asks.
type Place<V> = Arc<tokio::sync::Mutex<Option<Kept<V>>>>;

#[derive(Debug)]
struct Kept<V> {
    answer: Result<V, Unasked>,
    until: Instant,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// Room for so many.
    pub(super) fn new(max: usize) -> Self {
        Self { places: Mutex::default(), max }
    }

    /// The answer that is known, else the one that `ask` gives.
    pub(super) async fn get(
        &self,
        key: K,
        is_yes: impl FnOnce(&V) -> bool,
        ask: impl Future<Output = Result<V, Unasked>>,
    ) -> Result<V, Unasked> {
        let Some(place) = self.place(key) else {
            return Err(Unasked(format!("{} questions are being asked", self.max)));
        };
        let mut kept = place.lock().await;
        let begun = Instant::now();
        if let Some(kept) = kept.as_ref().filter(|kept| begun < kept.until) {
            return kept.answer.clone();
        }
        let answer = ask.await;
        let until = match &answer {
            Ok(value) if is_yes(value) => begun + YES,
            Ok(_) => begun + NO,
            // It may have taken longer than that to fail.
            Err(_) => Instant::now() + FAILED,
        };
        *kept = Some(Kept { answer: answer.clone(), until });
        answer
    }

    /// The place of a question; `None` when all are in use.
    fn place(&self, key: K) -> Option<Place<V>> {
        let mut places = self.places.lock();
        if let Some(place) = places.get(&key) {
            return Some(Arc::clone(place));
        }
        if places.len() >= self.max {
            make_room(&mut places);
        }
        (places.len() < self.max).then(|| Arc::clone(places.entry(key).or_default()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.lock().len()
    }
}

/// Drops what is over; if nothing is, the answer that is over next: a no before a yes of the same age.
fn make_room<K: Clone + Eq + Hash, V>(places: &mut HashMap<K, Place<V>>) {
    // Somebody who holds a place besides the map is about to read it or to fill it. No one takes hold meanwhile: that
    // needs the map.
    let end = |place: &Place<V>| match (Arc::strong_count(place), place.try_lock()) {
        (1, Ok(kept)) => Some(kept.as_ref().map(|kept| kept.until)),
        _ => None,
    };
    let now = Instant::now();
    let before = places.len();
    places.retain(|_, place| end(place).is_none_or(|until| until.is_some_and(|until| now < until)));
    if places.len() < before {
        return;
    }
    let next = places.iter().filter_map(|(key, place)| Some((end(place)??, key))).min_by_key(|(until, _)| *until);
    if let Some(key) = next.map(|(_, key)| key.clone()) {
        places.remove(&key);
    }
}

//! Record of a setting that is changed and has to be restored.

use serde::{Deserialize, Serialize};

/// Record of a setting that is changed: its original value, and the values it was set to since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting<T> {
    /// Value of the setting before the first change.
    pub before: T,
    /// Values that this project set, or was about to set.
    #[serde(default = "Vec::new")]
    ours: Vec<T>,
    /// The last value asked for and the value that the driver made of it, if they differ.
    #[serde(default = "none")]
    rounded: Option<(T, T)>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T: PartialEq + Clone> Setting<T> {
    /// Creates the record of a setting with this original value, which has not been set yet.
    pub fn new(before: T) -> Self {
        Self {
            before,
            ours: Vec::new(),
            rounded: None,
        }
    }

    /// Whether `now` is the setting's original value or one that was set. If not, another program
    /// has set it.
    pub fn knows(&self, now: &T) -> bool {
        self.knows_part(now, |value| value)
    }

    /// Whether a part of `now` is that of the original value or of a value that was set.
    pub fn knows_part<P: PartialEq>(&self, now: &T, part: impl Fn(&T) -> &P) -> bool {
        let mut known = self.ours.iter().chain([&self.before]);
        known.any(|known| part(known) == part(now))
    }

    /// Records that the setting is about to be set to `value`.
    pub fn intend(&mut self, value: &T) {
        if !self.ours.contains(value) {
            self.ours.push(value.clone());
        }
    }

    /// Records that the driver made `value` of the requested `goal`.
    pub fn became(&mut self, goal: &T, value: T) {
        self.rounded = (*goal != value).then(|| (goal.clone(), value.clone()));
        self.ours = vec![value];
    }

    /// Records that the driver refused a value, which left the setting at `value`.
    pub fn stayed(&mut self, value: T) {
        self.rounded = None;
        self.ours = vec![value];
    }

    /// Whether `now` is what the driver makes of the requested `goal`: setting it again would
    /// change nothing.
    pub fn is_made(&self, goal: &T, now: &T) -> bool {
        let made = self.rounded.as_ref();
        goal == now || made.is_some_and(|(asked, kept)| asked == goal && kept == now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_knows_its_original_value_and_the_values_set() {
        let mut setting = Setting::new(1);
        assert!(setting.knows(&1) && !setting.knows(&2));
        setting.intend(&2);
        setting.intend(&3);
        assert!(setting.knows(&2) && setting.knows(&3));
        setting.became(&3, 3);
        assert!(setting.knows(&1) && !setting.knows(&2) && setting.knows(&3));
        assert!(setting.is_made(&3, &3) && !setting.is_made(&3, &4));
    }

    #[test]
    fn a_value_that_the_driver_rounded_is_not_set_again() {
        let mut setting = Setting::new(256);
        setting.became(&1000, 1024);
        assert!(setting.is_made(&1000, &1024) && setting.knows(&1024));
        assert!(!setting.is_made(&2000, &1024) && !setting.is_made(&1000, &2048));
        setting.stayed(512);
        assert!(setting.knows(&512) && !setting.is_made(&1000, &512));
        // Whatever came between: the next request is another one.
        setting.became(&256, 256);
        assert!(!setting.is_made(&1000, &1024));
    }
}

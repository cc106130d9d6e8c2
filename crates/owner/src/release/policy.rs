//! What is revealed to whom, and how often.

use super::{Flooding, Refusal, Usage};
use crate::Reveal;
use serde::{Deserialize, Serialize};

/// Who sees what is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The owner's own process and people.
    Owner,
    /// Anybody else, the edge included.
    #[default]
    Outside,
}

/// What is released of a result, to whom, how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReleasePolicy {
    /// What of an inference is revealed.
    pub reveal: Reveal,
    /// To whom.
    pub audience: Audience,
    /// Noise on outputs before anything but a label leaves the owner's process; needed for that.
    pub flooding: Option<Flooding>,
    /// How often.
    pub budget: Budget,
}

impl Default for ReleasePolicy {
    fn default() -> Self {
        Self { reveal: Reveal::Label, audience: Audience::Outside, flooding: None, budget: Budget::default() }
    }
}

/// How many results are examined, whether they are released or refused: a refusal is an answer too. `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Of one device in a day (UTC).
    pub per_device_per_day: Option<u64>,
    /// Of one device ever.
    pub per_device_total: Option<u64>,
    /// Of all devices for one network in a day (UTC).
    pub per_model_per_day: Option<u64>,
    /// Of all devices for one network ever.
    pub per_model_total: Option<u64>,
    /// Results of a device that no honest one sends ([`Refusal::is_violation`]), after which nothing of it is examined until the owner
    /// says otherwise.
    pub violations_per_device: Option<u64>,
}

impl Default for Budget {
    /// A camera at one image a second, ten of them, and three strikes.
    fn default() -> Self {
        Self {
            per_device_per_day: Some(100_000),
            per_device_total: None,
            per_model_per_day: Some(1_000_000),
            per_model_total: None,
            violations_per_device: Some(3),
        }
    }
}

impl Budget {
    /// No limits.
    pub const UNLIMITED: Self = Self {
        per_device_per_day: None,
        per_device_total: None,
        per_model_per_day: None,
        per_model_total: None,
        violations_per_device: None,
    };

    /// Whether one more result may be examined.
    ///
    /// # Errors
    /// [`Refusal::Budget`] and [`Refusal::Suspended`].
    pub fn check(&self, usage: &Usage) -> Result<(), Refusal> {
        if self.violations_per_device.is_some_and(|limit| usage.device_violations >= limit) {
            return Err(Refusal::Suspended { refused: usage.device_violations });
        }
        let limits = [
            ("this device's results of today are used up", self.per_device_per_day, usage.device_today),
            ("this device's results are used up", self.per_device_total, usage.device_total),
            ("the network's results of today are used up", self.per_model_per_day, usage.model_today),
            ("the network's results are used up", self.per_model_total, usage.model_total),
        ];
        match limits.into_iter().find_map(|(what, limit, used)| Some((what, limit.filter(|l| used >= *l)?))) {
            Some((what, limit)) => Err(Refusal::Budget { what, limit }),
            None => Ok(()),
        }
    }

    /// The same, as the registry asks it.
    ///
    /// # Errors
    /// Code and text of the refusal.
    pub fn permit(&self, usage: &Usage) -> Result<(), (String, String)> {
        self.check(usage).map_err(|refusal| (refusal.code().to_owned(), refusal.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_stops_the_next_result_and_none_before() {
        let budget = Budget {
            per_device_per_day: Some(5),
            per_device_total: Some(7),
            per_model_per_day: Some(9),
            per_model_total: Some(11),
            violations_per_device: Some(2),
        };
        let usage = |device_today, device_total, model_today, model_total, device_violations| Usage {
            device_today,
            device_total,
            model_today,
            model_total,
            device_violations,
        };
        assert_eq!(budget.check(&usage(4, 6, 8, 10, 1)), Ok(()));
        for (used, code) in [
            (usage(5, 5, 5, 5, 0), "budget"),
            (usage(0, 7, 0, 0, 0), "budget"),
            (usage(0, 0, 9, 0, 0), "budget"),
            (usage(0, 0, 0, 11, 0), "budget"),
            (usage(0, 0, 0, 0, 2), "suspended"),
        ] {
            assert_eq!(budget.check(&used).unwrap_err().code(), code);
        }
        let all = usage(u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(Budget::UNLIMITED.check(&all), Ok(()));
    }

    #[test]
    fn policies_are_kept_as_json_and_misspelled_limits_are_refused() {
        let policy = ReleasePolicy { reveal: Reveal::Top(3), ..Default::default() };
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<ReleasePolicy>(&text).unwrap(), policy);
        assert_eq!(serde_json::from_str::<ReleasePolicy>("{}").unwrap(), ReleasePolicy::default());
        assert!(serde_json::from_str::<ReleasePolicy>(r#"{"budget":{"per_device_a_day":1}}"#).is_err());
    }
}

//! The kernel's controllers, by which a sandbox is limited. That they do limit is tried out in [`super::bites`].

use super::Examination;
use crate::machine;

/// Looks at them.
pub fn look(examination: &mut Examination<'_>) {
    let told = machine::controllers().map(|()| "memory, processes and cpu can be limited".to_owned());
    examination.note("cgroups", told);
}

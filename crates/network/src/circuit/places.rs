//! Where the values of a tensor stand: channel, row, column.

use std::collections::HashSet;

use super::Place;
use super::form::Value;
use super::sparse::index;

/// Places of a tensor's values by the conventions of ONNX: batch, channel, row, column. Tensors of one axis are flat,
/// sequences have channels and columns, axes beyond the fourth count into the columns.
pub(crate) fn default_places(shape: &[usize]) -> Vec<Place> {
    let axes = shape.get(1..).unwrap_or_default();
    let components: Vec<usize> = match axes.len() {
        0 | 1 => vec![0],
        2 => vec![0, 2],
        count => (0..count).map(|axis| axis.min(2)).collect(),
    };
    spread(axes, &components)
}

/// Places that count up along each axis in its component; axes of one component count together.
fn spread(axes: &[usize], components: &[usize]) -> Vec<Place> {
    let count: usize = axes.iter().product();
    let mut places = Vec::with_capacity(count);
    for flat in 0..count {
        let mut place = [0u32; 3];
        let mut scale = [1usize; 3];
        let mut rest = flat;
        for (&size, &component) in axes.iter().zip(components).rev() {
            if let (Some(entry), Some(scale)) = (place.get_mut(component), scale.get_mut(component)) {
                *entry = entry.saturating_add(index(rest % size.max(1) * *scale));
                *scale = scale.saturating_mul(size);
            }
            rest /= size.max(1);
        }
        places.push(place);
    }
    places
}

/// Places of a tensor whose last axis holds the channels.
pub(crate) fn channels_last(shape: &[usize]) -> Vec<Place> {
    let axes = shape.get(1..).unwrap_or_default();
    let components: Vec<usize> = match axes.len() {
        0 | 1 => vec![0],
        2 => vec![2, 0],
        count => (0..count).map(|axis| if axis + 1 == count { 0 } else { (axis + 1).min(2) }).collect(),
    };
    spread(axes, &components)
}

/// The component that counts along each axis of `shape` but the first, `None` for axes of size 1; `None` as a whole if
/// the places do not count along the axes.
pub(crate) fn components(places: &[Place], shape: &[usize]) -> Option<Vec<Option<usize>>> {
    let axes = shape.get(1..)?;
    let mut found = vec![None; axes.len()];
    let mut stride = 1;
    let first = places.first()?;
    for (slot, &size) in found.iter_mut().zip(axes).rev() {
        if size > 1 {
            let next = places.get(stride)?;
            let mut differing = (0..3).filter(|&k| first.get(k) != next.get(k));
            *slot = Some(differing.next()?);
            if differing.next().is_some() {
                return None;
            }
        }
        stride *= size;
    }
    let used: Vec<usize> = found.iter().flatten().copied().collect();
    if (0..3).any(|k| used.iter().filter(|&&u| u == k).count() > 1) {
        return None;
    }
    let filled: Vec<usize> = found.iter().map(|component| component.unwrap_or(3)).collect();
    (spread(axes, &filled) == places).then_some(found)
}

/// Places of a tensor of `shape` that came from one of `old_shape` and as many axes by cutting or growing axes: they
/// count along the same axes.
pub(crate) fn resized(places: &[Place], old_shape: &[usize], shape: &[usize]) -> Vec<Place> {
    let Some(known) = components(places, old_shape).filter(|_| old_shape.len() == shape.len()) else {
        return default_places(shape);
    };
    let mut unused: Vec<usize> = (0..3).filter(|k| !known.contains(&Some(*k))).collect();
    let axes = shape.get(1..).unwrap_or_default();
    let mut chosen = Vec::with_capacity(axes.len());
    for (&component, &size) in known.iter().zip(axes) {
        chosen.push(match component {
            Some(component) => component,
            None if size <= 1 => 3,
            None if unused.is_empty() => return default_places(shape),
            None => unused.remove(0),
        });
    }
    spread(axes, &chosen)
}

/// Places of a tensor of `shape` whose value number `i` is number `rows[i]` of one of `old_shape`, by picking and
/// repeating along axes.
pub(crate) fn picked(places: &[Place], old_shape: &[usize], shape: &[usize], rows: &[Option<u32>]) -> Vec<Place> {
    if components(places, old_shape).is_some() && old_shape.len() == shape.len() {
        return resized(places, old_shape, shape);
    }
    let moved: Option<Vec<Place>> = rows.iter().map(|row| places.get((*row)? as usize).copied()).collect();
    let Some(mut moved) = moved else {
        return default_places(shape);
    };
    close_gaps(&mut moved);
    let distinct: HashSet<&Place> = moved.iter().collect();
    if distinct.len() == moved.len() { moved } else { default_places(shape) }
}

/// The same places with gaps closed: the values along each component become 0, 1, 2, …
pub(crate) fn close_gaps(places: &mut [Place]) {
    for component in 0..3 {
        let mut present: Vec<u32> = places.iter().filter_map(|place| place.get(component).copied()).collect();
        present.sort_unstable();
        present.dedup();
        for entry in places.iter_mut().filter_map(|place| place.get_mut(component)) {
            *entry = index(present.binary_search(entry).unwrap_or(0));
        }
    }
}

/// Where the input's values stand if `value`, a moved and padded input of `shape`, stands as ONNX has it.
pub(crate) fn input_places(value: &Value, shape: &[usize], inputs: usize) -> Option<Vec<Place>> {
    let [(_, matrix)] = value.form.terms.as_slice() else {
        return None;
    };
    let mut found: Vec<Option<Place>> = vec![None; inputs];
    for (row, place) in default_places(shape).into_iter().enumerate() {
        match *matrix.row(row).collect::<Vec<_>>().as_slice() {
            [] => {}
            [(column, _)] => *found.get_mut(column as usize)? = Some(place),
            _ => return None,
        }
    }
    let mut places = found.into_iter().collect::<Option<Vec<Place>>>()?;
    close_gaps(&mut places);
    Some(places)
}

/// Where the input's values stand if no convolution tells: pictures have few channels, as their first or last axis.
pub(crate) fn guessed_places(shape: &[usize]) -> Vec<Place> {
    match shape {
        [1, first, second, last] if *first > 4 && *last <= 4 => spread(&[*first, *second, *last], &[1, 2, 0]),
        [1, _, _, _] => default_places(shape),
        _ => {
            let count: usize = shape.iter().product();
            default_places(&[1, count])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_axes() {
        assert_eq!(default_places(&[1, 2, 1, 2]), [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]);
        assert_eq!(default_places(&[1, 2]), [[0, 0, 0], [1, 0, 0]]);
        let last = guessed_places(&[1, 5, 2, 3]);
        assert_eq!(last.get(..4).unwrap(), [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 1]]);
        assert_eq!(components(&last, &[1, 5, 2, 3]), Some(vec![Some(1), Some(2), Some(0)]));
        assert_eq!(components(&last, &[1, 30]), None);
        assert_eq!(resized(&last, &[1, 5, 2, 3], &[1, 2, 2, 1]), [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]);
        let mut gaps = [[4, 0, 2], [9, 0, 3]];
        close_gaps(&mut gaps);
        assert_eq!(gaps, [[0, 0, 0], [1, 0, 1]]);
    }
}

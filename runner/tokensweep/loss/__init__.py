"""The loss that all methods share: tables, slots, objective, and the fused head."""

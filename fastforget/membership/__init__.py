"""Membership inference: differentiable models that tell the training data of a classifier from other data."""

from fastforget.membership.area import area_under_curve
from fastforget.membership.model import FEATURES, MembershipModel
from fastforget.membership.training import train_membership_model

__all__ = ["FEATURES", "MembershipModel", "area_under_curve", "train_membership_model"]
